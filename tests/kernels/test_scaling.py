"""Scales are those of each sample's own present tokens, and finite whatever the scores."""

import math

import torch
from hypothesis import given, settings

from prunekit.kernels.scaling import SCORE_LIMIT, of_largest, spread
from prunekit.testing import choices


@settings(max_examples=200)
@given(choices())
def test_scales_are_those_of_the_present_tokens(choice):
    present = choice.tokens.present
    above, span = spread(choice.scores, present)
    shares = of_largest(choice.scores, present)
    for sample, scores in enumerate(choice.scores.tolist()):
        known = [t for t, here in enumerate(present[sample]) if here and not math.isnan(scores[t])]
        held = [max(-SCORE_LIMIT, min(SCORE_LIMIT, score)) for score in scores]
        lowest = min((held[t] for t in known), default=0)
        highest = max((held[t] for t in known), default=0)
        largest = max((abs(held[t]) for t in known), default=0)
        if known:
            assert float(span[sample]) == float(torch.tensor(highest) - torch.tensor(lowest))
        for token in known:
            assert float(above[sample, token]) == float(torch.tensor(held[token]) - torch.tensor(lowest))
            share = float(shares[sample, token])
            assert abs(share) <= 1
            assert math.isclose(share, held[token] / (largest or 1), rel_tol=1e-6, abs_tol=1e-37)


def test_what_is_not_a_number_stays_so_and_counts_for_nothing():
    scores = torch.tensor([[torch.nan, 1.0, 3.0, 9.0]])
    present = torch.tensor([[True, True, True, False]])
    above, span = spread(scores, present)
    assert above[0, 1:3].tolist() == [0, 2] and above[0, 0].isnan() and span.item() == 2
    assert of_largest(scores, present)[0, 2] == 1
