"""What a graph knows of some tokens: a tensor a token, or a tuple of such, picked, joined and narrowed alike.

`Known` tensors are (batch, tokens, …). Nothing here looks inside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

Known: TypeAlias = Any
"""A tensor (batch, tokens, …), or a tuple of `Known`."""


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """Takes a per-token tensor (batch, tokens, …) to that of the wanted tokens: (batch, wanted, …).

    Attributes:
        places: The wanted tokens.
        samples: Row b of `places` is of sample `samples[b]`; None for sample b.
        look: Whether the values picked may be read, as they can for nothing on a CPU.
    """

    places: Int[Tensor, "batch wanted"]
    samples: Int[Tensor, " batch"] | None = None
    look: bool = False

    def __call__(self, values: Tensor) -> Tensor:
        """The values of the wanted tokens, as a new tensor."""
        samples = self.samples
        if samples is None:
            samples = torch.arange(len(self.places), device=values.device)
        return values[samples[:, None], self.places]


def picked(known: Known, places: Int[Tensor, "batch wanted"]) -> Known:
    """What is known of some of the tokens that `known` is about."""
    return each(Pick(places), known)


def each(function: Callable[..., Tensor], *known: Known) -> Known:
    """The function applied to every tensor in one or several things known, which have one structure."""
    if isinstance(known[0], tuple):
        return tuple(each(function, *parts) for parts in zip(*known, strict=True))
    return function(*known)
