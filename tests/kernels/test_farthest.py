"""Farthest-point filling is the loop it abbreviates, and survives what cosines do not."""

import torch
from hypothesis import given, settings

from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.farthest import farthest
from prunekit.testing import choices


@settings(max_examples=150)
@given(choices())
def test_farthest_is_the_loop(choice):
    """On features whose cosines are exact, so that ties are ties."""
    tokens, scores = choice.tokens, choice.scores.nan_to_num()
    eligible = tokens.present & ~choice.kept
    added = farthest(tokens.features, choice.kept, eligible, choice.room, scores)
    everyone = torch.arange(tokens.present.shape[1]).expand(tokens.present.shape)
    alike = cosine(tokens.features, everyone, everyone)
    for sample in range(len(added)):
        kept = choice.kept[sample].nonzero().flatten().tolist()
        rest = eligible[sample].nonzero().flatten().tolist()
        wanted = []
        for _ in range(int(choice.room[sample])):
            if kept:
                chosen = min(rest, key=lambda t: (max(float(alike[sample, t, k]) for k in kept), t))
            else:
                chosen = min(rest, key=lambda t: (-float(scores[sample, t]), t))
            rest.remove(chosen)
            kept.append(chosen)
            wanted.append(chosen)
        assert added[sample].nonzero().flatten().tolist() == sorted(wanted)


def test_unit_survives_the_ends_of_float32():
    awkward = [[1e38, 1e38], [1e-40, 0.0], [0.0, 0.0], [torch.inf, 1.0], [torch.nan, 1.0]]
    vectors = unit(torch.tensor(awkward))
    half = 0.5**0.5
    assert torch.allclose(vectors, torch.tensor([[half, half], [1, 0], [0, 0], [0, 0], [0, 0]]))


def test_cosines_of_half_precision_are_computed_in_float32():
    vectors = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    everyone = torch.arange(50)[None]
    exact = torch.nn.functional.cosine_similarity(
        vectors.double()[0, :, None], vectors.double()[0, None], dim=-1
    )
    torch.testing.assert_close(cosine(vectors, everyone, everyone)[0].double(), exact, rtol=0, atol=1e-6)
