"""Importance in its surroundings: a score, and how unevenly the token is like the others around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from prunekit import ImportanceScorer, Pairs, Scores, Stage, TokenBatch, Where, hookimpl
from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.known import Pick
from prunekit.kernels.planes import raster_order


class InContext(ImportanceScorer):
    """Adds to a score the variance of the token's cosines with the others of its chunk, on the score's scale.

    The holistic score of HoloV (arXiv:2510.02912): a + weight · v · mean|a| / mean|v|, means over the chunk,
    so that the chunk's mean is all but (1 + weight) times that of the score. The score is not multiplied by
    1000, as it is in the official code except in chunks of one token; only proportions matter.
    """

    use: Literal["in_context"] = "in_context"
    of: ImportanceScorer = Field(description="The score.")
    chunks: int = Field(
        16, ge=1, description="How many contiguous chunks; the first ones are one token longer."
    )
    weight: float = Field(0.09, ge=0, description="How much the variance counts beside the score.")

    @property
    def where(self) -> frozenset[Where]:
        return super().where | frozenset[Where]({"order"})

    @property
    def compares(self) -> Pairs:
        return "all"

    def __call__(self, tokens: TokenBatch) -> Scores:
        scores, order = self.of(tokens).float(), raster_order(tokens.positions, tokens.present)
        places, real = self._laid_out(tokens)
        if not scores.shape[-1]:
            return scores
        inside = order.gather(-1, places.flatten(1))
        base = scores.gather(-1, inside).view(places.shape).masked_fill(~real, 0)
        vectors = unit(Pick(inside)(tokens.features)).view(*places.shape, -1)
        uneven = _variance(vectors.masked_fill(~real[..., None], 0), real)
        count = real.sum(-1, keepdim=True).clamp(min=1)
        scale = base.abs().sum(-1, keepdim=True) / (uneven.sum(-1, keepdim=True) + 1e-6 * count)
        given = base + self.weight * uneven * scale
        # What is no token of a chunk is written to a place beyond all tokens.
        target = torch.where(real, inside.view(places.shape), scores.shape[-1]).flatten(1)
        beyond = torch.cat([scores, scores[:, :1]], -1)
        return beyond.scatter(-1, target, given.flatten(1))[:, :-1]

    def _laid_out(
        self, tokens: TokenBatch
    ) -> tuple[Int[Tensor, "batch chunks longest"], Bool[Tensor, "batch chunks longest"]]:
        """The raster ranks of each chunk, and which are real."""
        counts = tokens.counts[:, None]
        chunk = torch.arange(self.chunks, device=counts.device)
        size = counts // self.chunks + (chunk < counts % self.chunks)
        start = size.cumsum(-1) - size
        longest = -(-tokens.present.shape[-1] // self.chunks)
        step = torch.arange(longest, device=counts.device)
        real = step < size[..., None]
        return (start[..., None] + step).masked_fill(~real, 0), real


def _variance(
    vectors: Float[Tensor, "batch chunks longest dim"], real: Bool[Tensor, "batch chunks longest"]
) -> Float[Tensor, "batch chunks longest"]:
    """How unevenly each token is like the others of its chunk; its likeness to itself counts as 0."""
    alike = cosine(vectors, vectors)
    alike.diagonal(dim1=-2, dim2=-1).zero_()
    others = (real.sum(-1) - 1).clamp(min=1)[..., None]
    apart = alike - (alike.sum(-1) / others)[..., None]
    return apart.square_().masked_fill_(~real[..., None, :], 0).sum(-1).div_(others).masked_fill_(~real, 0)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [InContext]
