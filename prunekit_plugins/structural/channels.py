"""Channels of a network and the layers that write and read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from prunekit import Signal, TokenBatch, WeightGradient


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one layer has of each channel of a group.

    Attributes:
        layer: Its name in the model.
        axis: The axis of its weight that the channels are on.
        entries: Which entries of that axis belong to each channel.
    """

    layer: str
    axis: int
    entries: Int[Tensor, "channels each"]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that layers have in common, and so keep or lose together.

    Attributes:
        root: The layer whose output channels they are.
        channels: How many.
        writers: What writes them: outputs that are added are written by several.
        readers: What reads them.
    """

    root: str
    channels: int
    writers: tuple[Part, ...]
    readers: tuple[Part, ...]


def forget(model: nn.Module, group: Group, channels: list[int]) -> None:
    """Has nobody read these channels of a group any more: their weights in all readers become 0."""
    for part in group.readers:
        weight = _weight(model, part)
        with torch.no_grad():
            weight.index_fill_(part.axis, part.entries[channels].flatten().to(weight.device), 0)


def weights_of(model: nn.Module, group: Group) -> list[Tensor]:
    """The weight of each writer of a group."""
    return [_weight(model, part) for part in group.writers]


def tokens_of(model: nn.Module, group: Group, gradients: Mapping[Tensor, Tensor] | None) -> TokenBatch:
    """The channels of a group as one sample; the features of each are its filters, without biases.

    Args:
        model: The model.
        group: The group.
        gradients: The gradient of each weight; None for tokens without `WeightGradient`.
    """
    weights = weights_of(model, group)
    signals: dict[Signal, Tensor] = {}
    if gradients is not None:
        moved = _filters(group, [gradients[weight] for weight in weights])
        signals[WeightGradient()] = moved.movedim(0, -1)[None]
    return TokenBatch.grid(_filters(group, weights).flatten(1)[None], 1, group.channels, signals)


def _filters(group: Group, weights: Sequence[Tensor]) -> Float[Tensor, "channels layers width"]:
    """What each channel has of these tensors, one for each writer, all of one width."""
    rows = [
        weight.detach().movedim(part.axis, 0)[part.entries.to(weight.device)].flatten(1)
        for part, weight in zip(group.writers, weights, strict=True)
    ]
    width = max(row.shape[1] for row in rows)
    return torch.stack([pad(row, (0, width - row.shape[1])) for row in rows], 1)


def _weight(model: nn.Module, part: Part) -> Tensor:
    return model.get_parameter(f"{part.layer}.weight" if part.layer else "weight")
