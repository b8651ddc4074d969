"""Farthest point and marginal relevance are the loop they abbreviate, on both engines."""

from functools import partial

import pytest
import torch
from greedily import DEGENERATE, ENGINES, asked, best_first, cases, reads, without_kept
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.farthest import farthest
from prunekit.measuring import Counting
from prunekit.testing import choices


def loop(case, start, value, at_once=1):
    """Token after token: `value` says how good one is beside its largest likeness to the kept."""
    alike, kept, free, room = case
    kept, free, taken = list(kept), list(free), []

    def nearest(token, known):
        return value(token, max(alike[token][other] for other in known))

    while len(taken) < room:
        order = partial(nearest, known=tuple(kept)) if kept else start
        newest = sorted(free, key=order)[: min(at_once, room - len(taken))]
        taken += newest
        kept += newest
        free = [token for token in free if token not in newest]
    return sorted(taken)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150)
@given(choices())
def test_farthest_is_the_loop(engine, choice):
    """On features whose cosines are exact, so that ties are ties."""
    added = asked(farthest, choice, engine, first=choice.scores)
    for sample, case in enumerate(cases(choice)):
        start = best_first(choice.scores[sample])
        assert added[sample] == loop(case, start, lambda t, like: (like, t))


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=100)
@given(choices())
def test_without_scores_the_loneliest_comes_first(engine, choice):
    added = asked(farthest, choice, engine)
    for sample, case in enumerate(cases(choice)):

        def crowded(token, case=case):
            alike, _, free, _ = case
            return max((alike[token][other] for other in free if other != token), default=0), token

        assert added[sample] == loop(case, crowded, lambda t, like: (like, t))


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150)
@given(choices(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([1, 1, 2, 5]))
def test_marginal_relevance_is_the_loop(engine, choice, repulsion, at_once):
    """Worth in sixteenths, so that values are exact too; NaN ranks last, by index. Some are taken at once."""
    worth = torch.where(choice.scores.isnan(), torch.nan, (choice.scores.clamp(0, 1) * 16).round() / 16)
    added = asked(farthest, choice, engine, first=worth, worth=worth, repulsion=repulsion, at_once=at_once)
    for sample, case in enumerate(cases(choice)):
        known = worth[sample].isfinite().tolist()
        mine = worth[sample].nan_to_num().tolist()

        def value(token, like, known=known, mine=mine):
            return not known[token], known[token] * (repulsion * like - mine[token]), token

        assert added[sample] == loop(case, best_first(worth[sample]), value, at_once)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", DEGENERATE.values(), ids=DEGENERATE)
def test_exactly_as_many_as_there_is_room_for(features, engine):
    assert all(len(without_kept(features, engine, farthest, room)) == room for room in (1, 7, 40))


def test_the_device_form_reads_nothing():
    assert reads(farthest) == 0


def test_few_tokens_need_no_matrix():
    """Rows on demand give what the matrix gives."""
    features = torch.randn(1, 400, 16, generator=torch.Generator().manual_seed(0))
    scores = features.norm(dim=-1)
    with Counting() as counted:
        few = without_kept(features, "host", farthest, 20, first=scores)
    assert counted.peak_bytes < 400 * 400 * 4
    assert few == without_kept(features, "device", farthest, 20, first=scores)
    assert set(few) < set(without_kept(features, "host", farthest, 200, first=scores))
