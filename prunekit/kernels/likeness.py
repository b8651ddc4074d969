"""How alike the tokens of a sample are, for selectors that take one token after another.

They ask for the likeness of everyone to the token just taken. Where many are taken, the whole matrix is
multiplied out once; where few are, one row is computed for each. On accelerators, where a product costs
little and a launch much, it is always the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from prunekit.kernels.cosine import cosine, unit

Values: TypeAlias = NDArray[np.float32]
Row: TypeAlias = Callable[[int], Values]
"""`row(token)` gives the likeness of everyone to one token."""

FEW = 10
"""Rows are computed one by one where fewer than one token in this many is taken."""


SAME = 1e-6
"""A cosine this near to 1 is 1: float32 does not know it better."""


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """How alike two tokens are: their cosine, or what a symmetric matrix says.

    Attributes:
        source: The matrix `(batch, tokens, tokens)`, or unit vectors `(batch, tokens, dim)`.
        ready: Whether `source` is the matrix.
    """

    source: Float[Tensor, "batch tokens _"]
    ready: bool = True

    @classmethod
    def of(cls, features: Float[Tensor, "batch tokens dim"]) -> Self:
        """The cosine, in [-1, 1]; a zero or non-finite vector is like nothing, itself included."""
        return cls(unit(features), ready=False)

    def matrix(self) -> Float[Tensor, "batch tokens tokens"]:
        """Everyone to everyone."""
        return self.source if self.ready else _alike(self.source, self.source)

    def diagonal(self) -> Float[Tensor, "batch tokens"]:
        """Everyone to itself."""
        return self.source.diagonal(dim1=-2, dim2=-1) if self.ready else self.source.norm(dim=-1)

    def among(self, sample: int, places: NDArray[np.intp]) -> Values:
        """Everyone to everyone among the tokens at these places of one sample, on the host."""
        part = self._part(sample, places)
        return (part if self.ready else _alike(part, part)).numpy(force=True)

    def row(self, sample: int, places: NDArray[np.intp], taking: int) -> Row:
        """One token to everyone among these, by its index among them; `taking` are asked for."""
        if self.ready or taking * FEW >= len(places):
            return self.among(sample, places).__getitem__
        vectors = self._part(sample, places)
        return lambda token: _alike(vectors[token : token + 1], vectors)[0].numpy(force=True)

    def _part(self, sample: int, places: NDArray[np.intp]) -> Tensor:
        """What `source` holds of these tokens; no copy where they are all."""
        whole = self.source[sample]
        if len(places) == len(whole):
            return whole
        wanted = torch.from_numpy(places).to(whole.device)
        return whole[wanted][:, wanted] if self.ready else whole[wanted]


def _alike(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosines; of tokens alike but for rounding 1, so that copies of one token are tied and stay so."""
    cosines = cosine(rows, columns)
    return cosines.masked_fill_(cosines > 1 - SAME, 1)
