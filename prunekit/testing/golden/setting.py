"""From the tensors of a case to tokens with the signals that a pipeline asks for, and back to tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.files import load
from prunekit.pipeline import Pipeline
from prunekit.signals import Signal
from prunekit.tokens import Selection, TokenBatch


def pipeline(name: str, budget: int, **changes: Any) -> Pipeline:
    """An installed pipeline, of several places the first, that keeps so many tokens, with blocks swapped."""
    return load(name).cuts[0].swap(budget=budget, **changes)


def in_a_row(
    features: Float[Tensor, "tokens dim"] | int, signals: Mapping[Signal, Tensor] | None = None
) -> TokenBatch:
    """One sample whose tokens stand in one row; given a number, so many that are alike."""
    values = torch.ones(features, 1) if isinstance(features, int) else features
    return TokenBatch.grid(values[None], 1, len(values), signals)


def scored_by(pipeline: Pipeline, attention: Float[Tensor, "*heads tokens"]) -> dict[Signal, Tensor]:
    """The attention that the importance of a pipeline asks for, of one sample; heads may be one already."""
    heads = attention.reshape(1, -1, attention.shape[-1])
    return dict.fromkeys(pipeline.importance.needs, heads)


def indices(mask: Bool[Tensor, " tokens"]) -> Int[Tensor, " kept"]:
    """Where a mask is set."""
    return mask.nonzero().flatten()


def kept(selection: Selection) -> Int[Tensor, " kept"]:
    """The tokens kept of the only sample, ascending."""
    return indices(selection.kept[0])


def order(pipeline: Pipeline, tokens: TokenBatch, count: int) -> Int[Tensor, " kept"]:
    """The tokens of the only sample in the order in which they are taken.

    With room for one more, a pipeline that takes one token after another keeps one more: the earlier a token
    is taken, the more rooms it is kept in.
    """
    rooms = range(1, count + 1)
    masks = [pipeline.model_copy(update={"budget": room})(tokens).kept[0] for room in rooms]
    return torch.stack(masks).sum(0).argsort(descending=True, stable=True)[:count]
