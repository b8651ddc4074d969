"""The textbook: the whole graph or similarity matrix in memory first, then a selector on it.

One sample at a time, in float32 or, to see what rounding decides, in float64. Nothing here is shared with
the stages it is held against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.bench.naive import naive_coverage, naive_dpp, naive_max_min, naive_mis, naive_mmr

ABOVE = 0.8
PIVOTS = 0.7
BALANCE = 0.5
ALPHA = 1.0
EXHAUSTED = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sample without padding: what a reference selects `n` tokens of."""

    features: Float[Tensor, "tokens dim"]
    positions: Int[Tensor, "tokens 3"]
    scores: Float[Tensor, " tokens"]
    n: int

    @property
    def gram(self) -> Float[Tensor, "tokens tokens"]:
        """The cosines of all pairs."""
        unit = self.features / self.features.norm(dim=-1, keepdim=True)
        return unit @ unit.mT

    @property
    def order(self) -> Int[Tensor, " tokens"]:
        """Tokens from the best score to the worst, ties by lowest index."""
        return self.scores.argsort(descending=True, stable=True)

    @property
    def scaled(self) -> Float[Tensor, " tokens"]:
        """Scores from their least to their largest, less the least."""
        return self.scores - self.scores.min()

    @property
    def relevance(self) -> Float[Tensor, " tokens"]:
        """Scores scaled to about (0, 1], as CDPruner does."""
        return (self.scaled + 1e-6) / self.scaled.max()

    @property
    def kernel(self) -> Float[Tensor, "tokens tokens"]:
        """Cosines of all pairs, times the relevance of both."""
        return self.relevance[:, None] * self.gram * self.relevance

    @property
    def importance(self) -> Float[Tensor, " tokens"]:
        """Scores scaled to [0, 1), as IDPruner does."""
        return self.scaled / (self.scaled.max() + 1e-6)

    def in_double(self) -> Sample:
        """The same sample in float64; its scores stay what they are."""
        return replace(self, features=self.features.double())

    def shaken(self) -> Sample:
        """This sample with features changed by a millionth, at random."""
        make = torch.Generator().manual_seed(0)
        noise = torch.randn(self.features.shape, generator=make).to(self.features)
        return replace(self, features=self.features * (1 + 1e-6 * noise))


Chosen: TypeAlias = list[int]
Reference: TypeAlias = Callable[[Sample], Chosen]


def edges(case: str, sample: Sample) -> Bool[Tensor, "tokens tokens"]:
    """The whole graph of a case that has one; whether a token is its own neighbour does not matter."""
    alike = sample.gram.clamp(0, 1)
    if case == "d2pruner":
        return alike > ABOVE
    plane, cell = sample.positions[:, 0], sample.positions[:, 1:].to(alike.dtype)
    together = plane[:, None] == plane
    if case == "d2pruner-grounding":
        corner = torch.stack([cell[plane == each].amax(0) for each in range(int(plane.max()) + 1)])
        diagonal = corner.norm(dim=-1).clamp(min=1)[plane, None]
        near = 1 - torch.cdist(cell, cell, compute_mode="donot_use_mm_for_euclid_dist") / diagonal
        return 0.5 * alike + 0.5 * near * together > ABOVE
    near = (torch.cdist(cell, cell, p=torch.inf) <= 1) & together
    return near & (alike > ABOVE) if case == "mis-and" else near | (alike > ABOVE)


def dense(case: str, sample: Sample) -> Chosen:
    """Which tokens a case keeps, in order of picking."""
    return _DENSE[case](sample) if case in _DENSE else _spread(case, sample, _walked)


def naive(case: str, sample: Sample) -> Chosen:
    """Which tokens a case keeps, as published code picks them."""
    return _NAIVE[case](sample) if case in _NAIVE else _spread(case, sample, naive_mis)


def _spread(case: str, sample: Sample, walk: Callable[[Tensor, Tensor, int], Chosen]) -> Chosen:
    """Pivots where the case has them, an independent set of the rest, and the best where that runs dry."""
    order = sample.order
    pivots = int(PIVOTS * sample.n) if case.startswith("d2pruner") else 0
    chosen = order[:pivots].tolist()
    chosen += walk(edges(case, sample), order[pivots:], sample.n - pivots)
    left = set(chosen)
    rest = [token for token in order.tolist() if token not in left]
    return chosen + rest[: sample.n - len(chosen)]


def _walked(graph: Bool[Tensor, "tokens tokens"], order: Int[Tensor, " candidates"], n: int) -> Chosen:
    """The greedy independent set, walked on the host."""
    rows = graph.cpu().numpy()
    free = np.ones(len(rows), dtype=bool)
    chosen: Chosen = []
    for token in order.tolist():
        if len(chosen) == n:
            break
        if free[token]:
            chosen.append(token)
            free &= ~rows[token]
    return chosen


def _greedy(n: int, worth: Tensor, after: Callable[[int], Tensor]) -> Chosen:
    """Takes what is worth most, again and again; `after(token)` is what tokens are worth with it taken."""
    chosen: Chosen = []
    taken = torch.zeros_like(worth)
    while len(chosen) < n:
        chosen.append(int((worth + taken).argmax()))
        taken[chosen[-1]] = -torch.inf
        worth = after(chosen[-1])
    return chosen


def _dpp(sample: Sample) -> Chosen:
    """Where nothing new is left, the best by score."""
    kernel = sample.kernel
    whole, left = kernel.diagonal().tolist(), kernel.diagonal().clone()
    rows = kernel.new_zeros(sample.n, len(kernel))
    new: list[bool] = []

    def after(token: int) -> Tensor:
        step = len(new)
        new.append(all(new) and left[token].item() > EXHAUSTED * whole[token])
        rows[step] = (kernel[token] - rows[:step, token] @ rows[:step]) / left[token].abs().sqrt()
        return left.sub_(rows[step].square())

    chosen = _greedy(sample.n, left, after)[: sum(new) if new else 0]
    rest = [token for token in sample.order.tolist() if token not in set(chosen)]
    return chosen + rest[: sample.n - len(chosen)]


def _max_min(sample: Sample) -> Chosen:
    gram = sample.gram
    nearest = torch.full_like(gram[0], -torch.inf)
    closest = gram.clone().fill_diagonal_(-torch.inf).amax(0)
    return _greedy(sample.n, -closest, lambda token: -torch.maximum(nearest, gram[token], out=nearest))


def _mmr(sample: Sample) -> Chosen:
    gram, importance = sample.gram, sample.importance
    nearest = torch.full_like(gram[0], -torch.inf)

    def after(token: int) -> Tensor:
        torch.maximum(nearest, gram[token], out=nearest)
        return BALANCE * importance - (1 - BALANCE) * nearest

    return _greedy(sample.n, importance, after)


def _coverage(sample: Sample) -> Chosen:
    gram, saliency = sample.gram, sample.scores**ALPHA
    covered, gain = torch.zeros_like(gram[0]), torch.empty_like(gram)

    def after(token: int) -> Tensor:
        torch.maximum(covered, gram[token], out=covered)
        return torch.sub(gram, covered, out=gain).clamp_(min=0).sum(1) * saliency

    return _greedy(sample.n, gram.clamp(min=0).sum(1) * saliency, after)


_DENSE = MappingProxyType({"dpp": _dpp, "max_min": _max_min, "mmr": _mmr, "coverage": _coverage})
_NAIVE: MappingProxyType[str, Reference] = MappingProxyType({
    "dpp": lambda sample: naive_dpp(sample.kernel, sample.n),
    "max_min": lambda sample: naive_max_min(sample.gram, sample.n),
    "mmr": lambda sample: naive_mmr(sample.gram, sample.importance, sample.n, BALANCE),
    "coverage": lambda sample: naive_coverage(sample.gram, sample.scores, sample.n, ALPHA),
})  # fmt: skip
