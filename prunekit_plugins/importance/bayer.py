"""Importance as a place in an even order: the best of any region are spread over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, Where, hookimpl

BITS = 12
"""Planes of more rows or columns than 2¹² begin the order anew there; all scores are exact in float32."""


class Bayer(ImportanceScorer):
    """Scores a token by its place in Bayer's order of dithering, without looking at it.

    Of a plane whose sides are one power of two, the best 4ᵏ tokens are one in each of 4ᵏ equal squares; the
    same holds within each of these squares, and other regions come near it. So what shares room out among
    regions takes tokens spread evenly over each: one representative a cell.

    Returns:
        Scores in [0, 1), float32; tokens on one place of two planes have the same.
    """

    use: Literal["bayer"] = "bayer"

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"cell"})

    def __call__(self, tokens: TokenBatch) -> Scores:
        _, row, column = tokens.positions.unbind(-1)
        turn = torch.zeros_like(row)
        for bit in range(BITS):
            diagonal, below = ((row ^ column) >> bit) & 1, (row >> bit) & 1
            turn = turn * 4 + diagonal * 2 + below
        return (4**BITS - 1 - turn).float() / 4**BITS


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Bayer]
