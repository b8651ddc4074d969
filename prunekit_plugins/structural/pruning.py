"""A model with the channels that a pipeline keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import ConfigError, Pipeline, UnsupportedModel, WeightGradient
from prunekit_plugins.structural.channels import Group, Part, tokens_of, weights_of
from prunekit_plugins.structural.independence import independent
from prunekit_plugins.structural.removal import Forward, groups_in, remove, traced
from prunekit_plugins.structural.report import Report, Thinned, Whole

MIXED = "they are mixed on their way: split into heads, shuffled, or reshaped"


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A pruned model, and what was done to it."""

    model: nn.Module
    report: Report


def prune(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    pipeline: Pipeline,
    *,
    loss: Callable[[nn.Module], Tensor] | None = None,
) -> Pruned:
    """A copy of a model without the channels that a pipeline drops; the model itself stays as it is.

    Channels that layers share are one group: the pipeline sees each group as one sample whose tokens are its
    channels, and its budget is the share (or number) of channels of each group to keep. What remains computes
    what the whole model would if nobody read the dropped channels. Where that cannot be had a group is left
    whole, and the report says why: outputs of the model, channels that a layer norm or a group norm looks at
    together, heads of attention, grouped convolutions.

    Everything runs in evaluation mode: batch norms by their running statistics, no dropout.

    Args:
        model: The model; convolutions and linear layers in it are pruned.
        example_inputs: What to call it with: a tensor, its arguments, or its keyword arguments.
        pipeline: Importance, selectors and budget, for instance `prunekit.load("ippro")`.
        loss: Takes a model, and gives its loss on a calibration batch. Needed where a stage wants gradients.

    Returns:
        The pruned model, with modes and `requires_grad` as in the model, and the report.

    Raises:
        ConfigError: The pipeline needs what channels do not have, or a loss, or the loss is not one number.
        MissingExtra: torch-pruning is not installed.
        UnsupportedModel: Nothing in the model can be pruned.
    """
    _refuse(pipeline, loss)
    forward = _forward_on(example_inputs)
    pruned = _copy(model)
    graph = traced(pruned, forward)
    parameters, flops = _count(pruned), _flops(pruned, forward)
    found, whole = groups_in(pruned, graph)
    groups = independent(pruned, forward, found)
    if not groups:
        reasons = sorted({each.reason for each in whole} | ({MIXED} if found else set()))
        raise UnsupportedModel(
            f"{type(model).__name__} has no channels that can be pruned: "
            f"{'; '.join(reasons) or 'it has no convolutions and no linear layers'}."
        )
    gradients = None if loss is None else _gradients(pruned, groups, loss)
    kept = [_kept(pruned, group, pipeline, gradients) for group in groups]
    for group, channels in zip(groups, kept, strict=True):
        remove(pruned, graph, group, sorted(set(range(group.channels)) - set(channels)))
    report = Report(
        parameters=(parameters, _count(pruned)),
        flops=(flops, _flops(pruned, forward)),
        thinned=tuple(map(_told, groups, kept)),
        whole=(
            *whole,
            *(Whole(_names(each.writers), each.channels, MIXED) for each in found if each not in groups),
        ),
    )
    return Pruned(_like(pruned, model), report)


def _refuse(pipeline: Pipeline, loss: object) -> None:
    other = sorted(map(str, pipeline.needs - {WeightGradient()}))
    if other:
        raise ConfigError(
            f"The pipeline {pipeline.name!r} needs {', '.join(other)}, which channels do not have: take one "
            "that needs WeightGradient at most, for instance prunekit.load('ippro')."
        )
    if pipeline.needs and loss is None:
        raise ConfigError(
            f"The pipeline {pipeline.name!r} needs gradients: hand over "
            "loss=lambda model: cross_entropy(model(images), labels), with a calibration batch."
        )


def _forward_on(example_inputs: Any) -> Forward:
    if isinstance(example_inputs, Mapping):
        return lambda model: model(**example_inputs)
    if isinstance(example_inputs, Tensor):
        return lambda model: model(example_inputs)
    return lambda model: model(*example_inputs)


def _copy(model: nn.Module) -> nn.Module:
    """A copy to work on: in evaluation mode, every parameter with a gradient to be had."""
    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return copy


def _like(pruned: nn.Module, model: nn.Module) -> nn.Module:
    """The pruned model with the modes and `requires_grad` of the model it came from."""
    for name, parameter in model.named_parameters():
        pruned.get_parameter(name).requires_grad_(parameter.requires_grad)
    for name, module in model.named_modules():
        pruned.get_submodule(name).training = module.training
    return pruned


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _flops(model: nn.Module, forward: Forward) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    # With gradients: without them, layers of transformers run as one operation that is not counted.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        forward(model)
    return counter.get_total_flops()


def _gradients(
    model: nn.Module, groups: Sequence[Group], loss: Callable[[nn.Module], Tensor]
) -> dict[Tensor, Tensor]:
    """The gradient of the loss in the weight of each writer."""
    with torch.enable_grad():
        value: Any = loss(model)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.grad_fn is None:
            raise ConfigError("loss must give one number as a tensor, made from the model it is given.")
        if not bool(value.isfinite()):
            raise ConfigError(f"loss must be finite; it is {value.item()}.")
        weights = [each for group in groups for each in weights_of(model, group)]
        found = torch.autograd.grad(value.squeeze(), weights, materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def _kept(
    model: nn.Module, group: Group, pipeline: Pipeline, gradients: dict[Tensor, Tensor] | None
) -> list[int]:
    selection = pipeline(tokens_of(model, group, gradients), engine="host")
    return selection.indices[0].tolist()


def _told(group: Group, channels: Sequence[int]) -> Thinned:
    return Thinned(_names(group.writers), _names(group.readers), group.channels, tuple(channels))


def _names(parts: Sequence[Part]) -> tuple[str, ...]:
    return tuple(part.layer for part in parts)
