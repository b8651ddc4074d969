"""Importance of a channel as where training moves its filter: away from the origin, or towards it."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prunekit import ImportanceScorer, Scores, Signal, Stage, TokenBatch, TokenError, WeightGradient, hookimpl


class ProScore(ImportanceScorer):
    """Scores a channel by how far a gradient step moves its filter from the origin of projective space.

    A reconstruction of the PROscore of IPPRO (arXiv:2507.14171) from its idea, not from its formulas.

    A filter w of length r stands at [x : λ] with x = w / r and λ = 1, and the network uses r · x / λ. The
    homogeneous coordinate λ is the offset: the angle to the origin [0 : 1] is atan(|x| / |λ|) = π/4 for
    every filter, whatever its length. With g the gradient of the loss in w, the chain rule gives r · g in x
    and -w·g in λ, so one step of gradient descent goes to x = w / r - rate · r · g and λ = 1 + rate · w·g.
    The score is the angle there less π/4: below 0 moves towards the origin, where training would prune.
    With t = rate · r · |g| and k the cosine of w and g it is

        atan((t² (1 - k²) - 4 t k) / (√(1 - 2 t k + t²) + |1 + t k|)²)

    which for a small rate is -rate · w·g: up to the rate, the first-order estimate of how much the loss grows
    without the filter. Where several layers write a channel, each has its own filter, and the mean counts.

    Length does not matter. Where a filter is c · w and what reads it is divided by c (c > 0 through a ReLU),
    the network is the same function, and its loss in a filter v is the old loss in v / c. So the gradient is
    g / c, and r · |g| and k, all that the score depends on, are what they were. This holds for the filter
    that is scaled and all beside it; a filter that reads it has one entry scaled: it is another vector.

    A filter of zeros has no direction: it is at the origin already and scores -π/4, the least.

    Returns:
        Scores in [-π/4, π/4], at least float32.

    Raises:
        TokenError: The gradient does not fit the features.
    """

    use: Literal["pro_score"] = "pro_score"
    rate: float = Field(
        0.1,
        gt=0,
        description="The learning rate of the step. A small one leaves the order to w·g alone; a large one "
        "favours filters that turn.",
    )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({WeightGradient()})

    def __call__(self, tokens: TokenBatch) -> Scores:
        gradients = tokens.signal(WeightGradient()).movedim(-1, 1)
        layers, width = gradients.shape[2:] if gradients.ndim == 4 else (0, 0)
        if layers * width != tokens.features.shape[-1]:
            raise TokenError(
                "WeightGradient is (batch, layers, width, tokens), and features have layers · width numbers; "
                f"got {tuple(gradients.movedim(1, -1).shape)} and features of {tokens.features.shape[-1]}."
            )
        return _turned(tokens.features.unflatten(-1, (layers, width)), gradients, self.rate).mean(-1)


def _turned(
    weights: Float[Tensor, "*filters width"], gradients: Float[Tensor, "*filters width"], rate: float
) -> Float[Tensor, "*filters"]:
    """The change of the angle between each filter and the origin; see `ProScore`."""
    length, direction = _polar(weights)
    slope, ascent = _polar(gradients)
    cosine = (direction * ascent).sum(-1).clamp(-1, 1)
    step = (rate * length * slope).clamp(max=torch.finfo(length.dtype).max)
    # All of the formula is divided by 1 + step, so that no step is too long.
    stay = 1 / (1 + step)
    go = step * stay
    along = go * cosine
    away = (stay**2 - 2 * stay * along + go**2).clamp(min=0).sqrt()
    rise = go**2 * (1 + cosine) * (1 - cosine) - 4 * stay * along
    angle = torch.atan(rise / (away + (stay + along).abs()) ** 2)
    return torch.where(length == 0, -pi / 4, angle)


def _polar(
    vectors: Float[Tensor, "*filters width"],
) -> tuple[Float[Tensor, "*filters"], Float[Tensor, "*filters width"]]:
    """Length and direction of each vector, of zeros 0, at least in float32."""
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    # Divided by the largest entry first, so that squares neither overflow nor vanish.
    largest = vectors.abs().amax(-1, keepdim=True)
    scaled = vectors / torch.where(largest == 0, 1, largest)
    length = scaled.norm(dim=-1, keepdim=True)
    direction = scaled / torch.where(length == 0, 1, length)
    return (length * largest).squeeze(-1).clamp(max=torch.finfo(vectors.dtype).max), direction


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [ProScore]
