"""Ways to choose tokens, for tests: plain functions from a `TokenBatch` to a `Selection`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prunekit import Selection, Signal, TokenBatch

Select = Callable[[TokenBatch], Selection]


def selection(tokens: TokenBatch, kept: Tensor, scores: Tensor | None = None) -> Selection:
    scores = torch.zeros(kept.shape) if scores is None else scores
    return Selection(
        kept, torch.where(kept, 0, -1), ("test",), scores, scores, tokens.positions, tokens.present
    )


def keep_all(tokens: TokenBatch) -> Selection:
    return selection(tokens, tokens.present)


def every(step: int) -> Select:
    """Every so-many-th token of each sample."""

    def select(tokens: TokenBatch) -> Selection:
        ordinal = torch.arange(tokens.present.shape[1])
        return selection(tokens, tokens.present & (ordinal % step == 0))

    return select


def top(share: float, signal: Signal | None = None) -> Select:
    """This share of each sample's tokens: the highest by a signal, or by the features' norm."""

    def select(tokens: TokenBatch) -> Selection:
        scores = tokens.features.norm(dim=-1) if signal is None else tokens.signals[signal].mean(1)
        scores = scores.masked_fill(~tokens.present, -1)
        rank = scores.argsort(-1, descending=True).argsort(-1)
        room = (tokens.counts * share).ceil()
        return selection(tokens, (rank < room[:, None]) & tokens.present, scores)

    return select
