"""Graphs: stored and implicit say the same, and the base class keeps loops and padding out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.graph import blend, everywhere


@st.composite
def edge_lists(draw):
    """Present tokens, and edges among all tokens: any direction, repeated, loops and padding included."""
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    present = torch.tensor(
        draw(
            st.lists(
                st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=batch, max_size=batch
            )
        )
    )
    edge = st.tuples(
        st.integers(0, batch - 1), st.integers(0, tokens - 1), st.integers(0, tokens - 1), st.integers(0, 4)
    )
    edges = torch.tensor(draw(st.lists(edge, max_size=20))).reshape(-1, 4).long()
    return present, edges


@settings(max_examples=200)
@given(edge_lists())
def test_a_sparse_graph_is_its_edges_both_ways_without_loops_and_padding(case):
    present, edges = case
    samples, starts, ends, quarters = edges.unbind(-1)
    graph = pk.SparseGraph.of_edges(present, samples, starts, ends, quarters / 4)
    wanted = torch.zeros(*present.shape, present.shape[-1], dtype=torch.bool)
    for sample, start, end, _ in edges.tolist():
        if start != end and present[sample, start] and present[sample, end]:
            wanted[sample, start, end] = wanted[sample, end, start] = True
    assert torch.equal(graph.to_dense(), wanted)
    assert torch.equal(graph.to_csr(2).to_dense(), wanted)
    everyone = everywhere(present)
    similarity = graph.similarity(everyone, everyone)
    for sample, start, end, _ in edges.tolist():
        heaviest = max(w for s, a, b, w in edges.tolist() if s == sample and {a, b} == {start, end})
        assert similarity[sample, start, end] == similarity[sample, end, start] == heaviest / 4


@settings(max_examples=100)
@given(edge_lists(), edge_lists())
def test_all_of_and_any_of_are_and_and_or(one, other):
    present = one[0]
    samples, starts, ends, weights = one[1].unbind(-1)
    first = pk.SparseGraph.of_edges(present, samples, starts, ends, weights / 4)
    batch, tokens = present.shape
    samples, starts, ends, weights = (other[1] % torch.tensor([batch, tokens, tokens, 5])).unbind(-1)
    second = pk.SparseGraph.of_edges(present, samples, starts, ends, weights / 4)
    both, either = pk.AllOf(present, [first, second]), pk.AnyOf(present, [first, second])
    assert torch.equal(both.to_dense(), first.to_dense() & second.to_dense())
    assert torch.equal(either.to_dense(), first.to_dense() | second.to_dense())


def test_no_edges_has_none():
    present = torch.ones(2, 5, dtype=torch.bool)
    graph = pk.NoEdges(present)
    assert not graph.to_dense().any()
    assert graph.to_csr().neighbours.numel() == 0


@pytest.mark.parametrize("alpha, asked", [(0.0, {"second"}), (1.0, {"first"}), (0.5, {"first", "second"})])
def test_a_part_of_weight_zero_is_never_computed(alpha, asked):
    present = torch.ones(1, 4, dtype=torch.bool)
    seen = set()

    def part(name, value):
        def rule(rows, columns):
            seen.add(name)
            return torch.full((*rows.shape, columns.shape[-1]), value)

        return pk.ImplicitGraph(present, lambda pick: pick(present), rule, 0.0)

    graph = blend(part("first", 0.75), part("second", 0.25), alpha, 0.4)
    dense = graph.to_dense()
    assert seen == asked
    assert bool(dense[0, 0, 1]) == (alpha * 0.75 + (1 - alpha) * 0.25 > 0.4)
