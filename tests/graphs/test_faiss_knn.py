"""The graph from FAISS: certified, it is the cosine graph; without FAISS, it says what to install."""

import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.graph import everywhere
from prunekit.kernels.cosine import cosine, unit
from prunekit_plugins.graphs import faiss_knn
from prunekit_plugins.graphs.cosine import Cosine
from prunekit_plugins.graphs.faiss_knn import FaissKNN


def clustered(batch, count, clusters, spread, seed):
    """Tokens around a few directions, with some padding full of NaN."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, 16, generator=generator)
    which = torch.randint(clusters, (batch, count), generator=generator)
    features = centres[which] + spread * torch.randn(batch, count, 16, generator=generator)
    present = torch.rand(batch, count, generator=generator) < 0.8
    features[~present] = torch.nan
    positions = torch.zeros(batch, count, 3, dtype=torch.long)
    return pk.TokenBatch(features, positions, present)


@settings(max_examples=100)
@given(
    batch=st.integers(1, 3),
    count=st.integers(1, 60),
    clusters=st.integers(1, 4),
    spread=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    k=st.integers(1, 40),
    above=st.sampled_from([0.0, 0.3, 0.8]),
    seed=st.integers(0, 2**31 - 1),
)
def test_certified_it_is_the_cosine_graph(*, batch, count, clusters, spread, k, above, seed):
    pytest.importorskip("faiss")
    tokens = clustered(batch, count, clusters, spread, seed)
    everyone = everywhere(tokens.present)
    vectors = unit(tokens.features)
    likeness = cosine(vectors, vectors)
    real = tokens.present[:, :, None] & tokens.present[:, None]
    assume(bool(((likeness - above).abs() > 1e-5)[real].all()))
    stored, dense = FaissKNN(k=k, above=above)(tokens), Cosine(above=above)(tokens)
    assert torch.equal(stored.to_dense(), dense.to_dense())
    edges = stored.to_dense()
    torch.testing.assert_close(
        stored.similarity(everyone, everyone)[edges],
        dense.similarity(everyone, everyone)[edges],
        atol=1e-5,
        rtol=0,
    )


def test_k_is_doubled_until_nothing_is_cut_off(monkeypatch):
    """Sixty copies of one token: each has 59 neighbours, which only k = 59 and more holds."""
    pytest.importorskip("faiss")
    asked = []
    search = faiss_knn._nearest

    def counted(vectors, k):
        asked.append(k)
        return search(vectors, k)

    monkeypatch.setattr(faiss_knn, "_nearest", counted)
    tokens = pk.TokenBatch.grid(torch.ones(1, 60, 4), 6, 10)
    graph = FaissKNN(k=4)(tokens)
    assert asked == [5, 9, 17, 33, 60]
    assert int(graph.to_dense().sum()) == 60 * 59


def test_without_a_certificate_k_stays_and_edges_are_lost():
    pytest.importorskip("faiss")
    tokens = pk.TokenBatch.grid(torch.ones(1, 60, 4), 6, 10)
    graph = FaissKNN(k=4, certify=False)(tokens)
    assert 0 < int(graph.to_dense().sum()) < 60 * 59


def test_without_faiss_it_names_the_extra(monkeypatch):
    faiss_knn._faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    tokens = pk.TokenBatch.grid(torch.ones(1, 4, 2), 2, 2)
    with pytest.raises(pk.MissingExtra, match=r"pip install 'prunekit\[faiss-cpu\]'.*\{use: cosine\}"):
        FaissKNN()(tokens)
