"""Importance as being out of the ordinary: how far a token lies from what is common around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, Where, hookimpl
from prunekit.kernels.cosine import unit
from prunekit.kernels.planes import plane_of
from prunekit.kernels.scaling import widest

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""The squared widths of the bells that likeness to a centre is summed over."""


class OffCentre(ImportanceScorer):
    """Scores a token by how little it is like the centre of its sample, or of its plane, or both together.

    The score of VidCom2 (arXiv:2505.14454). On the channels that vary least, at unit length, likeness to a
    centre c is the sum over widths a of exp(-|x - c|² / 2a); less of it is worth more.

    Returns:
        Scores in [-10, 0), float32.
    """

    use: Literal["off_centre"] = "off_centre"
    centre: Literal["both", "sample", "plane"] = Field(
        "both", description="The mean of the sample (a video), of the plane (a frame), or both in sum."
    )
    channels: float = Field(
        0.5,
        gt=0,
        le=1,
        description="The share of the channels to look at, those of least variance; at least 1.",
    )

    @property
    def where(self) -> frozenset[Where]:
        return frozenset() if self.centre == "sample" else frozenset({"plane"})

    def __call__(self, tokens: TokenBatch) -> Scores:
        vectors = unit(self._steadiest(tokens)).masked_fill(~tokens.present[..., None], 0)
        likeness = torch.zeros(tokens.present.shape, device=vectors.device)
        if self.centre != "plane":
            total = vectors.sum(1, keepdim=True, dtype=widest(vectors.device))
            mean = (total / tokens.counts.clamp(min=1)[:, None, None]).float()
            likeness = likeness + _likeness(vectors, mean)
        if self.centre != "sample":
            likeness = likeness + _likeness(vectors, _plane_means(vectors, tokens))
        return -likeness

    def _steadiest(self, tokens: TokenBatch) -> Float[Tensor, "batch tokens channels"]:
        """The features on the channels that vary least among the present tokens of a sample."""
        values = tokens.features.to(widest(tokens.features.device)).masked_fill(~tokens.present[..., None], 0)
        counts = tokens.counts.clamp(min=1)[:, None]
        variance = values.square().sum(1) / counts - (values.sum(1) / counts).square()
        wanted = max(int(values.shape[-1] * self.channels), 1)
        channels = variance.argsort(dim=-1, stable=True)[:, :wanted]
        return tokens.features.gather(-1, channels[:, None].expand(-1, values.shape[1], -1))


def _likeness(vectors: Tensor, centre: Tensor) -> Scores:
    distance = (vectors - centre).square().sum(-1, dtype=widest(vectors.device))
    return torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(0).float()


def _plane_means(vectors: Tensor, tokens: TokenBatch) -> Float[Tensor, "batch tokens channels"]:
    """For each token the mean of its plane's."""
    plane = plane_of(tokens.positions, tokens.present)[..., None].expand_as(vectors)
    counted = tokens.present[..., None].expand_as(vectors).float()
    total = torch.zeros_like(vectors).scatter_add(1, plane, vectors)
    count = torch.zeros_like(vectors).scatter_add(1, plane, counted).clamp(min=1)
    return (total / count).gather(1, plane)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [OffCentre]
