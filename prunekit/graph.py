"""Graphs over the tokens of each sample, which answer one question: who is adjacent to whom?

A graph is asked in two steps: what it must know of some tokens (`known`: unit vectors, cells), gathered and
prepared together, and who of two such sets is joined (`joins`). So a walk prepares tokens as it meets them
and compares them as often as it likes, and the N × N matrix is never built unless asked for. Every graph is
symmetric, without loops, and has no edge across samples and none to padding: the base class sees to that,
whatever a rule says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.errors import PluginError
from prunekit.kernels.known import Known, Pick

Rule: TypeAlias = Callable[[Known, Known], Tensor]
"""`rule(rows, columns)` gives the similarity in [0, 1] of each row token with each column token, from what is
known of them: tensors (batch, rows, …) and (batch, columns, …) give (batch, rows, columns)."""

Bound: TypeAlias = Callable[[float], int | None]
"""`bound(level)`: tokens more cells apart than this, or on two planes, are not alike above `level`."""


def _unbounded(level: float) -> None:
    del level


@dataclass(frozen=True, slots=True, eq=False)
class Graph(ABC):
    """Who is adjacent to whom, asked for any block of rows and columns.

    Attributes:
        present: Which tokens are real; no edge touches the others.
    """

    present: Bool[Tensor, "batch tokens"]

    @abstractmethod
    def known(self, pick: Pick) -> Known:
        """What must be known of some tokens to say who is joined: per-token tensors, picked and prepared.

        Args:
            pick: Takes a per-token tensor (batch, tokens, …) to that of the wanted tokens.
        """

    @abstractmethod
    def joins(self, rows: Known, columns: Known) -> Bool[Tensor, "batch rows columns"]:
        """What this graph says of each pair, before loops and padding are taken out."""

    def alike(self, rows: Known, columns: Known) -> Float[Tensor, "batch rows columns"]:
        """How alike two tokens are, in [0, 1]; 1 for an edge and 0 for none where a graph knows no more."""
        return self.joins(rows, columns).float()

    @property
    def reach(self) -> int | None:
        """No edge joins tokens more cells apart (Chebyshev) than this, or on two planes; None: unknown."""
        return None

    def within(self, level: float) -> int | None:
        """Like `reach`, for pairs alike above `level`, 0 or more."""
        del level
        return self.reach

    def adjacent(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        """Whether an edge joins token `rows[b, r]` to token `columns[b, c]` of sample b."""
        real = self.present.gather(-1, rows)[:, :, None] & self.present.gather(-1, columns)[:, None]
        distinct = rows[:, :, None] != columns[:, None]
        return self.joins(self.known(Pick(rows)), self.known(Pick(columns))) & real & distinct

    def similarity(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch rows columns"]:
        """How alike token `rows[b, r]` and token `columns[b, c]` of sample b are, in [0, 1]."""
        return self.alike(self.known(Pick(rows)), self.known(Pick(columns)))

    def to_dense(self) -> Bool[Tensor, "batch tokens tokens"]:
        """The whole adjacency matrix, for tests, plots and a look."""
        everyone = everywhere(self.present)
        return self.adjacent(everyone, everyone)

    def to_csr(self, block: int = 256) -> SparseGraph:
        """The same graph as stored neighbour lists, built without the N × N matrix."""
        everyone = everywhere(self.present)
        samples, starts, ends, weights = [], [], [], []
        for first in range(0, max(everyone.shape[-1], 1), block):
            rows = everyone[:, first : first + block]
            sample, row, column = self.adjacent(rows, everyone).nonzero(as_tuple=True)
            samples.append(sample)
            starts.append(row + first)
            ends.append(column)
            weights.append(self.similarity(rows, everyone)[sample, row, column])
        return SparseGraph.of_edges(
            self.present, torch.cat(samples), torch.cat(starts), torch.cat(ends), torch.cat(weights)
        )


@dataclass(frozen=True, slots=True, eq=False)
class NoEdges(Graph):
    """The neutral element: nobody is adjacent to anybody."""

    def known(self, pick: Pick) -> Known:
        return pick(self.present)

    def joins(self, rows: Known, columns: Known) -> Bool[Tensor, "batch rows columns"]:
        return torch.zeros(*rows.shape, columns.shape[-1], dtype=torch.bool, device=self.present.device)


@dataclass(frozen=True, slots=True, eq=False)
class ImplicitGraph(Graph):
    """An edge wherever `rule` says more than `above`; nothing is stored but what it is computed from.

    Example:
        >>> tokens = TokenBatch.grid(torch.randn(1, 16, 8), rows=4, columns=4)
        >>> graph = ImplicitGraph(
        ...     tokens.present,
        ...     lambda pick: torch.nn.functional.normalize(pick(tokens.features), dim=-1),
        ...     lambda rows, columns: (rows @ columns.mT).clamp(0, 1),
        ...     above=0.8,
        ... )

    Attributes:
        knows: What `known` gives.
        rule: How alike two tokens are, from what is known of them.
        above: An edge is where the rule says more.
        bound: How far apart, in cells, tokens alike above a level can be; by default nothing is known.
    """

    knows: Callable[[Pick], Known]
    rule: Rule
    above: float
    bound: Bound = _unbounded

    def known(self, pick: Pick) -> Known:
        return self.knows(pick)

    def joins(self, rows: Known, columns: Known) -> Bool[Tensor, "batch rows columns"]:
        return self.rule(rows, columns) > self.above

    def alike(self, rows: Known, columns: Known) -> Float[Tensor, "batch rows columns"]:
        return self.rule(rows, columns)

    @property
    def reach(self) -> int | None:
        return self.within(self.above)

    def within(self, level: float) -> int | None:
        """See `Graph.within`.

        Raises:
            PluginError: `bound` gives something that is no number of cells.
        """
        cells: Any = self.bound(level)
        if cells is not None and (not isinstance(cells, int) or isinstance(cells, bool) or cells < 0):
            raise PluginError(
                f"A graph's bound({level}) must be None or a whole number of cells, not {cells!r}."
            )
        return cells


@dataclass(frozen=True, slots=True, eq=False)
class SparseGraph(Graph):
    """Stored neighbour lists (CSR) of all samples, one after another.

    Attributes:
        offsets: Where the neighbours of token t of sample b begin, at `b * tokens + t`; one more at the end.
        neighbours: The neighbours, as indices into their own sample, ascending within a list.
        weights: The similarity of each edge, in [0, 1].
    """

    offsets: Int[Tensor, " nodes_and_end"]
    neighbours: Int[Tensor, " edges"]
    weights: Float[Tensor, " edges"]

    @classmethod
    def of_edges(
        cls,
        present: Bool[Tensor, "batch tokens"],
        samples: Int[Tensor, " edges"],
        starts: Int[Tensor, " edges"],
        ends: Int[Tensor, " edges"],
        weights: Float[Tensor, " edges"],
    ) -> SparseGraph:
        """From a list of edges, in any order and repeated or not; both directions are added."""
        tokens = present.shape[-1]
        there = (samples * tokens + starts) * tokens + ends
        back = (samples * tokens + ends) * tokens + starts
        pair, inverse = torch.cat([there, back]).unique(return_inverse=True)
        merged = weights.new_zeros(len(pair)).scatter_reduce(
            0, inverse, torch.cat([weights, weights]), "amax"
        )
        degrees = (pair // max(tokens, 1)).bincount(minlength=present.numel())
        offsets = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
        return cls(present, offsets, pair % max(tokens, 1), merged)

    def known(self, pick: Pick) -> Known:
        nodes = torch.arange(self.present.numel(), device=self.present.device)
        return pick(nodes.view(self.present.shape))

    def joins(self, rows: Known, columns: Known) -> Bool[Tensor, "batch rows columns"]:
        return self._lookup(torch.ones_like(self.neighbours, dtype=torch.bool), rows, columns)

    def alike(self, rows: Known, columns: Known) -> Float[Tensor, "batch rows columns"]:
        return self._lookup(self.weights, rows, columns)

    def _lookup(self, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Lays the neighbour lists of the asked nodes out as rows of N, then picks the columns."""
        tokens, node = self.present.shape[-1], rows.flatten()
        first, degree = self.offsets[node], self.offsets[node + 1] - self.offsets[node]
        owner = torch.arange(len(node), device=node.device).repeat_interleave(degree)
        step = torch.arange(len(owner), device=node.device) - (degree.cumsum(0) - degree)[owner]
        edge = first[owner] + step
        laid = values.new_zeros(len(node), tokens)
        laid[owner, self.neighbours[edge]] = values[edge]
        laid = laid.view(*rows.shape, tokens)
        return laid.gather(-1, (columns % max(tokens, 1))[:, None].expand(-1, rows.shape[-1], -1))


@dataclass(frozen=True, slots=True, eq=False)
class _Joined(Graph):
    """Several graphs as one, which knows what its parts must know."""

    parts: Sequence[Graph]

    def known(self, pick: Pick) -> Known:
        return tuple(part.known(pick) for part in self.parts)

    def _said(self, rows: Known, columns: Known) -> Bool[Tensor, "parts batch rows columns"]:
        """What each part says of each pair."""
        return torch.stack([part.joins(*pair) for part, *pair in zip(self.parts, rows, columns, strict=True)])


@dataclass(frozen=True, slots=True, eq=False)
class AllOf(_Joined):
    """An edge where every part has one."""

    def joins(self, rows: Known, columns: Known) -> Bool[Tensor, "batch rows columns"]:
        return self._said(rows, columns).all(0)

    @property
    def reach(self) -> int | None:
        return min((part.reach for part in self.parts if part.reach is not None), default=None)


@dataclass(frozen=True, slots=True, eq=False)
class AnyOf(_Joined):
    """An edge where at least one part has one."""

    def joins(self, rows: Known, columns: Known) -> Bool[Tensor, "batch rows columns"]:
        return self._said(rows, columns).any(0)

    @property
    def reach(self) -> int | None:
        reaches = [part.reach for part in self.parts if part.reach is not None]
        return max(reaches) if len(reaches) == len(self.parts) else None


def blend(first: Graph, second: Graph, alpha: float, above: float) -> Graph:
    """An edge where `alpha * first + (1 - alpha) * second` is above the threshold, on their similarities.

    Thresholds of implicit parts play no role; a stored or joined graph says 0 where it has no edge. A part
    of weight zero is never computed.
    """
    if alpha in {0, 1}:
        alone = first if alpha == 1 else second
        return ImplicitGraph(first.present, alone.known, alone.alike, above, alone.within)

    def knows(pick: Pick) -> Known:
        return first.known(pick), second.known(pick)

    def rule(rows: Known, columns: Known) -> Tensor:
        return alpha * first.alike(rows[0], columns[0]) + (1 - alpha) * second.alike(rows[1], columns[1])

    def bound(level: float) -> int | None:
        """Where one part says 1 at most, the other must say the rest; some room for rounding."""
        low = level - 1e-6
        needs = ((first, (low - (1 - alpha)) / alpha), (second, (low - alpha) / (1 - alpha)))
        reaches = [part.within(least) for part, least in needs if least > 0]
        return min((reach for reach in reaches if reach is not None), default=None)

    return ImplicitGraph(first.present, knows, rule, above, bound)


def everywhere(present: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """The indices of all tokens of all samples: the widest block one can ask a graph for."""
    return torch.arange(present.shape[-1], device=present.device).expand(present.shape)
