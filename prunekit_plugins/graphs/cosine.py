"""The graph of semantic likeness: an edge where features point the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prunekit import Graph, GraphBuilder, ImplicitGraph, Pairs, Stage, TokenBatch, hookimpl
from prunekit.kernels.cosine import cosine, unit


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

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, tokens: TokenBatch) -> Graph:
        features, present = tokens.features, tokens.present
        if self.scaling == "min_max":
            least, largest = (value.expand(present.shape) for value in _cosine_range(tokens))
            return ImplicitGraph(
                present,
                lambda pick: (unit(pick(features), pick.look), pick(least), pick(largest - least)),
                lambda a, b: ((cosine(a[0], b[0]) - a[1][..., None]) / a[2][..., None]).clamp_(0, 1),
                self.above,
            )
        rule = _shifted if self.scaling == "shift" else _clipped
        return ImplicitGraph(present, lambda pick: unit(pick(features), pick.look), rule, self.above)


def _clipped(rows: Tensor, columns: Tensor) -> Tensor:
    return (rows @ columns.mT).clamp_(0, 1)


def _shifted(rows: Tensor, columns: Tensor) -> Tensor:
    return (1 + cosine(rows, columns)) / 2


def _cosine_range(
    tokens: TokenBatch, block: int = 256
) -> tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]:
    """The least and the largest cosine among the present tokens of each sample, block by block.

    Kept apart, so that the rounding of a constant image is not stretched into similarities.
    """
    vectors = unit(tokens.features)
    least = torch.full((len(vectors), 1), 1.0, device=vectors.device)
    largest = -least
    for first in range(0, vectors.shape[1], block):
        rows = slice(first, first + block)
        real = tokens.present[:, rows, None] & tokens.present[:, None]
        likeness = cosine(vectors[:, rows], vectors)
        least = least.minimum(likeness.masked_fill(~real, 1.0).amin((-2, -1))[:, None])
        largest = largest.maximum(likeness.masked_fill(~real, -1.0).amax((-2, -1))[:, None])
    return least, largest.maximum(least + 1e-5)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Cosine]
