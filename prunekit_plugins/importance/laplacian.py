"""Importance as detail: how much a token differs from those around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, Where, hookimpl
from prunekit.kernels.cosine import unit
from prunekit.kernels.known import Pick
from prunekit.kernels.neighbours import cell_beside

AROUND = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""The neighbours of a token: rows and columns further."""


class Laplacian(ImportanceScorer):
    """Scores a token by the squared length of the Laplacian of the feature map at its place.

    The Laplacian is the sum over the four neighbours on the plane of how far each is from the token, by four,
    all at length 1; a neighbour that is not there is not far. Over a plane it sums to 0, so that the mean of
    these scores is its variance: what S²Prune shares its room out by, as far as is known of it, there of
    pixels.

    Returns:
        Scores in [0, 4], float32.
    """

    use: Literal["laplacian"] = "laplacian"

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"cell", "plane"})

    def __call__(self, tokens: TokenBatch) -> Scores:
        vectors = unit(tokens.features)
        found = torch.zeros_like(vectors)
        for rows, columns in AROUND:
            beside, there = cell_beside(tokens.positions, tokens.present, rows, columns)
            found += (Pick(beside)(vectors) - vectors).masked_fill_(~there[..., None], 0)
        return (found / len(AROUND)).square().sum(-1)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Laplacian]
