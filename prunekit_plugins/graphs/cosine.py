"""The graph of semantic likeness: an edge where features point the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit import Graph, GraphBuilder, ImplicitGraph, Stage, TokenBatch, hookimpl
from prunekit.graph import everywhere
from prunekit.kernels.cosine import cosine


class Cosine(GraphBuilder):
    """An edge where the scaled cosine similarity of two tokens is above a threshold.

    The Ŝ_sem of D²Pruner (arXiv:2512.19443). Public sources do not settle how cosines become
    similarities in [0, 1]: that is `scaling`. Cosines are taken in float32; a zero or non-finite vector is
    like no other.
    """

    use: Literal["cosine"] = "cosine"
    scaling: Literal["clip", "shift", "min_max"] = Field(
        "clip",
        description="clip: negative cosines become 0; shift: (1 + cosine) / 2; min_max: stretched between "
        "the least and the largest cosine of the sample, a token with itself included.",
    )
    above: float = Field(0.8, ge=0, le=1, description="An edge where the similarity exceeds this.")

    def __call__(self, tokens: TokenBatch) -> Graph:
        least, largest = {"clip": (0.0, 1.0), "shift": (-1.0, 1.0)}.get(self.scaling) or _cosine_range(tokens)

        def rule(rows: Tensor, columns: Tensor) -> Tensor:
            likeness = cosine(tokens.features, rows, columns)
            return ((likeness - least) / (largest - least)).clamp(0, 1)

        return ImplicitGraph(tokens.present, rule, self.above)


def _cosine_range(tokens: TokenBatch, block: int = 256) -> tuple[Tensor, Tensor]:
    """The least and the largest cosine among the present tokens of each sample, block by block.

    Kept apart, so that the rounding of a constant image is not stretched into similarities.
    """
    everyone = everywhere(tokens.present)
    least = torch.full((len(everyone), 1, 1), 1.0, device=everyone.device)
    largest = -least
    for first in range(0, everyone.shape[-1], block):
        rows = everyone[:, first : first + block]
        real = tokens.present.gather(-1, rows)[:, :, None] & tokens.present[:, None]
        likeness = cosine(tokens.features, rows, everyone)
        low = likeness.masked_fill(~real, 1.0).amin((-2, -1), keepdim=True)
        high = likeness.masked_fill(~real, -1.0).amax((-2, -1), keepdim=True)
        least, largest = least.minimum(low), largest.maximum(high)
    return least, largest.maximum(least + 1e-5)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Cosine]
