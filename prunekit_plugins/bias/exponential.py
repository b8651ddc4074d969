"""Bias as a known curve: attention grows along the raster, so scores are weighed down along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import Bias, BiasEstimator, Stage, TokenBatch, Where, hookimpl
from prunekit.kernels.planes import raster_rank


class Exponential(BiasEstimator):
    """Weighs the i-th token in raster order by exp(-rate * i), the first by 1.

    From arXiv:2508.17807, which fits a rate of about 0.004 for PyramidDrop, 0.0023 for SparseVLM, 0.0022
    for HiMAP and 0.0017 for TokenCarve. Raster order is that of the positions, whatever order tokens are in.
    """

    use: Literal["exponential"] = "exponential"
    rate: float = Field(0.004, ge=0, description="How fast the weight falls, a token.")

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"order"})

    def __call__(self, tokens: TokenBatch) -> Bias:
        rank = raster_rank(tokens.positions, tokens.present)
        return Bias(torch.exp(-self.rate * rank.float()), "weight")


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Exponential]
