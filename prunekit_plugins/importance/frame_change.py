"""Importance as change: how much a token differs from the same cell of the frame before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, Where, hookimpl
from prunekit.kernels.cosine import unit
from prunekit.kernels.known import Pick
from prunekit.kernels.neighbours import cell_before

FIRST = 255.0
"""The score of a cell seen for the first time: above any change."""


class FrameChange(ImportanceScorer):
    """Scores a token by 1 - cosine with the token on the same cell of the frame before.

    The score of EVS (arXiv:2510.14624). Frames are planes, and where a cell is missing from a frame, the one
    before counts. The tokens of the first frame are worth more than all others.

    Returns:
        Scores in [0, 2], float32, and 255 where there is no frame before.
    """

    use: Literal["frame_change"] = "frame_change"

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"plane"})

    def __call__(self, tokens: TokenBatch) -> Scores:
        vectors: Float[Tensor, "batch tokens dim"] = unit(tokens.features)
        before, known = cell_before(tokens.positions, tokens.present)
        alike = (vectors * Pick(before)(vectors)).sum(-1).clamp(-1, 1)
        return torch.where(known, 1 - alike, FIRST)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [FrameChange]
