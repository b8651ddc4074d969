"""Bias as what the position encoding alone would give: near tokens get more attention than far ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from prunekit import Bias, BiasEstimator, Distance, Signal, Stage, TokenBatch, hookimpl
from prunekit.kernels.scaling import widest


class RopeOnly(BiasEstimator):
    """The attention that the last prompt token would pay to a token if query and keys were all ones.

    From SparseVLM's second version (arXiv:2410.04417), which divides attention by it. At a distance t the
    product of all ones, turned by their rotary embedding, is the sum over channel pairs i of
    2 cos(t · theta^(-2i/dim)); divided by √dim, its softmax is the bias. Here it runs over the visual tokens
    alone, which changes no order, and is that of the last prompt token, where the official code divides the
    attention of each text token by its own.

    Values are in (0, 1), those of a sample sum to 1.
    """

    use: Literal["rope_only"] = "rope_only"
    theta: float = Field(10000.0, gt=1, allow_inf_nan=False, description="The base of the rotary embedding.")
    dim: int = Field(128, ge=2, multiple_of=2, description="How many channels a head has.")
    epsilon: float = Field(1e-7, ge=0, description="Added to the bias before dividing by it.")

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Distance()})

    def __call__(self, tokens: TokenBatch) -> Bias:
        distance = tokens.signal(Distance()).to(widest(tokens.features.device))
        product = torch.zeros_like(distance)
        for pair in range(self.dim // 2):
            product += 2 * torch.cos(distance * self.theta ** (-2 * pair / self.dim))
        alone = (product / self.dim**0.5).masked_fill(~tokens.present, -torch.inf)
        values = alone.softmax(-1).nan_to_num(0).clamp(min=torch.finfo(torch.float32).tiny)
        return Bias(values.float(), "ratio", self.epsilon)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [RopeOnly]
