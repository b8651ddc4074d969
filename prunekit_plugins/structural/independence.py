"""Which groups of channels can be taken apart, by trying."""

from __future__ import annotations

from copy import deepcopy
from math import sqrt

import torch
from torch import Tensor, nn

from prunekit_plugins.structural.channels import Group, forget
from prunekit_plugins.structural.removal import Forward, remove, tensors_in, traced


def independent(model: nn.Module, forward: Forward, groups: list[Group]) -> list[Group]:
    """The groups whose channels can be taken out with no other effect than that nobody reads them any more.

    It is tried rather than looked up: half of the channels, drawn at random, are taken out of one copy of the
    model, and left in another where nobody reads them. With weights drawn anew in both, so that nothing hides
    behind a weight of 0, their outputs are the same only if the two are the same function. They are not where
    channels are normalised together, split into heads, or shuffled.

    Halves the groups until it is found which are not independent: two runs in all if all are.
    """
    return _grown(model, forward, [], groups)


def _grown(model: nn.Module, forward: Forward, sound: list[Group], asked: list[Group]) -> list[Group]:
    if not asked or _same(model, forward, [*sound, *asked]):
        return [*sound, *asked]
    if len(asked) == 1:
        return sound
    half = len(asked) // 2
    return _grown(model, forward, _grown(model, forward, sound, asked[:half]), asked[half:])


def _same(model: nn.Module, forward: Forward, groups: list[Group]) -> bool:
    """Whether taking half of the channels of these groups out is the same as not reading them."""
    generator = torch.Generator().manual_seed(0)
    model = _redrawn(model, generator)
    halves = [
        torch.randperm(group.channels, generator=generator)[: group.channels // 2].tolist()
        for group in groups
    ]
    unread = deepcopy(model)
    for group, channels in zip(groups, halves, strict=True):
        forget(unread, group, channels)
    with torch.no_grad():
        wanted = tensors_in(forward(unread))
    try:
        graph = traced(model, forward)
        for group, channels in zip(groups, halves, strict=True):
            remove(model, graph, group, channels)
        with torch.no_grad():
            found = tensors_in(forward(model))
    except Exception:  # a model may fail in any way on channels it counts on
        return False
    return len(wanted) == len(found) and all(map(_alike, wanted, found))


def _redrawn(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with weights drawn anew, of a size that neither grows nor shrinks what goes through."""
    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    for parameter in model.parameters():
        shape = parameter.shape
        if parameter.ndim > 1:
            drawn = torch.randn(shape, generator=generator) / sqrt(max(parameter[:1].numel(), 1))
        else:
            drawn = torch.rand(shape, generator=generator) + 0.5
        parameter.data.copy_(drawn)
    return model


def _alike(wanted: Tensor, found: Tensor) -> bool:
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    margin = sqrt(torch.finfo(wanted.dtype).eps) * largest
    return wanted.shape == found.shape and torch.allclose(wanted, found, rtol=0, atol=margin)
