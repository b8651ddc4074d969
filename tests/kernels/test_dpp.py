"""The greedy DPP is pivoted Cholesky, guarded: always as many tokens as there is room for."""

import pytest
import torch
from greedily import DEGENERATE, ENGINES, asked, best_first, cases, reads, without_kept
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.dpp import EXHAUSTED, TIED, dpp
from prunekit.kernels.scaling import of_largest
from prunekit.testing import choices


def loop(case, weight, order):
    """Every residual anew at every step, from a pseudo-inverse in float64."""
    alike, kept, free, room = case
    matrix = torch.tensor(alike, dtype=torch.float64).reshape(len(alike), len(alike))
    kept, free, taken = list(kept), list(free), []
    for _ in range(room):
        among = matrix[kept]
        inverse = torch.linalg.pinv(among[:, kept], rtol=1e-6, hermitian=True)
        residual = (matrix.diagonal() - (among * (inverse @ among)).sum(0)).tolist()
        fresh = [token for token in free if residual[token] > EXHAUSTED and weight[token] > 0]
        top = max(fresh, key=lambda token: weight[token] * residual[token], default=0)
        enough = weight[top] * (residual[top] - TIED)
        tied = [token for token in fresh if weight[token] * residual[token] >= enough]
        taken.append(min(tied) if tied else min(free, key=order))
        free.remove(taken[-1])
        kept.append(taken[-1])
    return sorted(taken)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150)
@given(choices(), st.booleans())
def test_dpp_is_the_loop(engine, choice, by_score):
    relevance = of_largest(choice.scores, choice.tokens.present) if by_score else None
    weight = torch.ones_like(choice.scores) if relevance is None else relevance.square()
    added = asked(dpp, choice, engine, scores=choice.scores, relevance=relevance)
    for sample, case in enumerate(cases(choice)):
        order = best_first(choice.scores[sample])
        assert added[sample] == loop(case, weight[sample].tolist(), order)


@pytest.mark.parametrize("engine", ENGINES)
def test_dpp_is_pivoted_cholesky(engine):
    """LAPACK's `dpstrf` takes the largest pivot first: the same tokens, whatever their number."""
    dpstrf = pytest.importorskip("scipy.linalg.lapack").dpstrf
    make = torch.Generator().manual_seed(0)
    features, relevance = torch.randn(1, 200, 64, generator=make), torch.rand(1, 200, generator=make)
    vectors, scale = unit(features)[0].double(), relevance[0].double()
    kernel = scale[:, None] * cosine(vectors, vectors) * scale
    pivots = (dpstrf(kernel.numpy())[1] - 1).tolist()
    for room in (1, 10, 50):
        taken = without_kept(features, engine, dpp, room, scores=relevance, relevance=relevance)
        assert taken == sorted(pivots[:room])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", DEGENERATE.values(), ids=DEGENERATE)
def test_exactly_as_many_as_there_is_room_for(features, engine):
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    for room in (1, 7, 40):
        assert len(without_kept(features, engine, dpp, room, scores=scores)) == room


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_worth_little_is_still_told_apart(engine):
    """One score far above all others, as attention sinks have, does not make all others equal."""
    features = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(0))
    relevance = torch.rand(1, 50, generator=torch.Generator().manual_seed(1))
    scaled, sink = 1e-6 * relevance, torch.zeros(1, 50)
    sink[0, 7] = 1
    alone = without_kept(features, engine, dpp, 20, scores=relevance, relevance=relevance.maximum(2 * sink))
    beside = without_kept(features, engine, dpp, 20, scores=relevance, relevance=scaled.maximum(sink))
    assert alone == beside


def test_the_device_form_reads_nothing():
    assert reads(dpp, scores=torch.rand(2, 30), relevance=torch.rand(2, 30)) == 0
