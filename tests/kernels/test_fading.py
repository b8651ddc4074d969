"""Fading is the slow loop, on both engines."""

import math

import pytest
import torch
from greedily import DEGENERATE, ENGINES, asked, cases, reads, without_kept
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.kernels.fading import fading
from prunekit.testing import choices


def loop(case, worth, sharpness):
    """The textbook, in float64."""
    alike, kept, free, room = case
    left = {token: worth[token] for token in free}
    taken = []

    def fade(by, token):
        for other, value in left.items():
            if value >= 0:
                left[other] = max(value - by * math.exp(-sharpness * (1 - alike[token][other]) ** 2), 0)

    for token in kept:
        fade(max(worth[token], 0), token)
    for _ in range(room):
        best = max(left.values())
        taken.append(min(token for token, value in left.items() if value >= best))
        fade(max(left.pop(taken[-1]), 0), taken[-1])
    return sorted(taken)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150)
@given(choices(), st.sampled_from([0.0, 1.0, 20.0]), st.integers(0, 2**20))
def test_fading_is_the_loop(engine, choice, sharpness, seed):
    """Of worths so far apart that no rounding decides; NaN ranks last."""
    shuffled = torch.rand(choice.scores.shape, generator=torch.Generator().manual_seed(seed))
    worth = torch.where(choice.scores.isnan(), torch.nan, shuffled)
    added = asked(fading, choice, engine, worth=worth, sharpness=sharpness)
    for sample, case in enumerate(cases(choice)):
        assert added[sample] == loop(case, worth[sample].nan_to_num(-1).tolist(), sharpness)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", DEGENERATE.values(), ids=DEGENERATE)
def test_exactly_as_many_as_there_is_room_for(features, engine):
    worth = torch.ones(1, 40)
    for room in (1, 7, 40):
        assert len(without_kept(features, engine, fading, room, worth=worth, sharpness=20.0)) == room


def test_the_device_form_reads_nothing():
    assert reads(fading, worth=torch.rand(2, 30), sharpness=20.0) == 0
