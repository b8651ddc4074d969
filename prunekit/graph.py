"""Graphs over the tokens of each sample, which answer one question: who is adjacent to whom?

An implicit graph computes its answer from a rule, block by block, so the N × N matrix is never built unless
asked for; a sparse graph looks it up. Every graph is symmetric, without loops, and has no edge across
samples and none to padding: the base class sees to that, whatever a rule says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Places: TypeAlias = Int[Tensor, "batch _"]
Rule: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`rule(rows, columns)` gives the similarity in [0, 1] of each row token with each column token."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph(ABC):
    """Who is adjacent to whom, asked for any block of rows and columns.

    Attributes:
        present: Which tokens are real; no edge touches the others.
    """

    present: Bool[Tensor, "batch tokens"]

    def adjacent(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        """Whether an edge joins token `rows[b, r]` to token `columns[b, c]` of sample b."""
        real = self.present.gather(-1, rows)[:, :, None] & self.present.gather(-1, columns)[:, None]
        distinct = rows[:, :, None] != columns[:, None]
        return self.joins(rows, columns) & real & distinct

    @abstractmethod
    def joins(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        """What this graph says of a pair, before loops and padding are taken out."""

    def similarity(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch rows columns"]:
        """How alike two tokens are, in [0, 1]; 1 for an edge and 0 for none where a graph knows no more."""
        return self.adjacent(rows, columns).float()

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

    def joins(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        return torch.zeros(*rows.shape, columns.shape[-1], dtype=torch.bool, device=self.present.device)


@dataclass(frozen=True, slots=True, eq=False)
class ImplicitGraph(Graph):
    """An edge wherever `rule` says more than `above`; nothing is stored but what the rule holds."""

    rule: Rule
    above: float

    def joins(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        return self.similarity(rows, columns) > self.above

    def similarity(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch rows columns"]:
        return self.rule(rows, columns)


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

    def joins(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        return self._lookup(torch.ones_like(self.neighbours, dtype=torch.bool), rows, columns)

    def similarity(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch rows columns"]:
        return self._lookup(self.weights, rows, columns)

    def _lookup(self, values: Tensor, rows: Places, columns: Places) -> Tensor:
        """Lays the neighbour lists of the asked rows out as rows of N, then picks the columns."""
        batch, tokens = self.present.shape
        node = (torch.arange(batch, device=rows.device)[:, None] * tokens + rows).flatten()
        first, degree = self.offsets[node], self.offsets[node + 1] - self.offsets[node]
        owner = torch.arange(len(node), device=rows.device).repeat_interleave(degree)
        step = torch.arange(len(owner), device=rows.device) - (degree.cumsum(0) - degree)[owner]
        edge = first[owner] + step
        laid = values.new_zeros(len(node), tokens)
        laid[owner, self.neighbours[edge]] = values[edge]
        laid = laid.view(batch, rows.shape[-1], tokens)
        return laid.gather(-1, columns[:, None].expand(-1, rows.shape[-1], -1))


@dataclass(frozen=True, slots=True, eq=False)
class AllOf(Graph):
    """An edge where every part has one."""

    parts: Sequence[Graph]

    def joins(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        return torch.stack([part.joins(rows, columns) for part in self.parts]).all(0)


@dataclass(frozen=True, slots=True, eq=False)
class AnyOf(Graph):
    """An edge where at least one part has one."""

    parts: Sequence[Graph]

    def joins(
        self, rows: Int[Tensor, "batch rows"], columns: Int[Tensor, "batch columns"]
    ) -> Bool[Tensor, "batch rows columns"]:
        return torch.stack([part.joins(rows, columns) for part in self.parts]).any(0)


def blend(first: Graph, second: Graph, alpha: float, above: float) -> Graph:
    """An edge where `alpha * first + (1 - alpha) * second` is above the threshold, on their similarities.

    Thresholds of implicit parts play no role; a stored or joined graph says 0 where it has no edge. A part
    of weight zero is never computed.
    """

    def rule(rows: Places, columns: Places) -> Tensor:
        if alpha == 1:
            return first.similarity(rows, columns)
        if alpha == 0:
            return second.similarity(rows, columns)
        return alpha * first.similarity(rows, columns) + (1 - alpha) * second.similarity(rows, columns)

    return ImplicitGraph(first.present, rule, above)


def everywhere(present: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """The indices of all tokens of all samples: the widest block one can ask a graph for."""
    return torch.arange(present.shape[-1], device=present.device).expand(present.shape)
