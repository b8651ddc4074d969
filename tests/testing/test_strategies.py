"""The strategies make what they say: every awkward case turns up, and all is exact."""

import pytest
import torch
from hypothesis import find, given, settings

import prunekit as pk
from prunekit.kernels.cosine import cosine, unit
from prunekit.testing import choices, merges, token_sets

ATTENTION, PADDED = pk.TextAttention(), pk.PaddedShare()
SEEN, KEYS, TEXTS = pk.VisionAttention(), pk.VisionKeys(), pk.TextFeatures()


def real_features(tokens):
    return tokens.features[tokens.present]


def real_attention(tokens):
    return tokens.signals[ATTENTION].movedim(1, -1)[tokens.present]


def raster(tokens):
    """One number a token of the first sample, which grows along the raster."""
    return (tokens.positions[0, tokens.present[0]] * torch.tensor([100, 10, 1])).sum(-1)


AWKWARD_TOKENS = {
    "no token at all": lambda t: t.features.shape[1] == 0,
    "an empty sample beside a full one": lambda t: (t.counts == 0).any() and t.counts.any(),
    "one token": lambda t: (t.counts == 1).any(),
    "three planes": lambda t: t.positions[t.present][:, 0].unique().numel() == 3,
    "not in raster order": lambda t: (raster(t).diff() < 0).any(),
    "padding in front": lambda t: (~t.present[:, :1] & t.present.any(-1, keepdim=True)).any(),
    "padding behind": lambda t: (~t.present[:, -1:] & t.present.any(-1, keepdim=True)).any(),
    "garbage in padding": lambda t: t.features[~t.present].isnan().any(),
    "float16": lambda t: t.features.dtype == torch.float16,
    "bfloat16": lambda t: t.features.dtype == torch.bfloat16,
    "NaN features": lambda t: real_features(t).isnan().any(),
    "infinite features": lambda t: real_features(t).isinf().any(),
    "NaN attention": lambda t: real_attention(t).isnan().any(),
    "zero vectors": lambda t: (real_features(t) == 0).all(-1).any(),
    "huge features": lambda t: (real_features(t).nan_to_num(0, 0, 0).abs() > 1e20).any(),
    "copies": lambda t: len(real_features(t).unique(dim=0)) < len(real_features(t)) > 4,
}

AWKWARD_CHOICES = {
    "constant scores": lambda c: (c.scores == 1).all() and c.scores.numel() > 4,
    "distinct scores": lambda c: c.scores.unique().numel() == c.scores.numel() > 4,
    "NaN scores": lambda c: c.scores.isnan().any(),
    "infinite scores": lambda c: c.scores.isinf().any(),
    "huge scores": lambda c: (c.scores == 3e38).any(),
    "no edge": lambda c: not c.edges.any() and c.edges.numel() > 4,
    "all edges": lambda c: c.edges.sum() == c.edges.numel() - c.scores.numel() > 4,
    "some kept": lambda c: c.kept.any() and (c.tokens.present & ~c.kept).any(),
    "no room": lambda c: (c.room == 0).any() and (c.room > 0).any(),
}


AWKWARD_MERGES = {
    "all kept": lambda m: (m.kept_by[m.tokens.present] >= 0).all() and m.kept_by.numel() > 4,
    "nobody kept by a step that is asked for": lambda m: m.selection.kept.any() and not by(m, "asked").any(),
    "few kept": lambda m: m.selection.kept.sum() * 5 < m.tokens.present.sum(),
    "NaN scores": lambda m: m.scores.isnan().any(),
    "scores below 0": lambda m: (m.scores < 0).any(),
    "no token at all": lambda m: m.kept_by.shape[1] == 0,
    "fewer texts than there is place for": lambda m: (m.tokens.signals[TEXTS] == 0).all(-1).any(),
    "garbage in the keys of padding": lambda m: keys(m)[~m.tokens.present].isnan().any(),
}


def by(merge, step):
    return merge.selection.by([step])


def keys(merge):
    return merge.tokens.signals[KEYS].movedim(-1, 1)


@pytest.mark.parametrize("what", AWKWARD_TOKENS.values(), ids=AWKWARD_TOKENS)
def test_awkward_tokens_turn_up(what):
    turns_up(token_sets(needs={ATTENTION, PADDED}), what)


@pytest.mark.parametrize("what", AWKWARD_CHOICES.values(), ids=AWKWARD_CHOICES)
def test_awkward_choices_turn_up(what):
    turns_up(choices(), what)


@pytest.mark.parametrize("what", AWKWARD_MERGES.values(), ids=AWKWARD_MERGES)
def test_awkward_merges_turn_up(what):
    turns_up(merges(needs={KEYS, TEXTS}, after={"asked"}), what)


def turns_up(strategy, what):
    few = settings(max_examples=400, database=None)
    find(strategy, lambda case: bool(what(case)), settings=few)


@settings(max_examples=50)
@given(token_sets(needs={ATTENTION}))
def test_all_numbers_are_exact(tokens):
    both = tokens.present[:, :, None] & tokens.present[:, None]
    quarters = 4 * cosine(unit(tokens.features), unit(tokens.features))[both]
    assert torch.equal(quarters, quarters.round())
    finite = tokens.signals[ATTENTION].float().nan_to_num(0, 0, 0)
    assert torch.equal(1024 * finite, (1024 * finite).round())


@settings(max_examples=50)
@given(choices())
def test_choices_never_offer_more_room_than_is_left(choice):
    left = (choice.tokens.present & ~choice.kept).sum(-1)
    assert ((choice.room >= 0) & (choice.room <= left)).all()
    assert not (choice.kept & ~choice.tokens.present).any()
    dense = choice.candidates.graph.to_dense()
    assert not (dense & ~choice.edges).any()


@settings(max_examples=50)
@given(token_sets(needs={ATTENTION, PADDED}, spoilt=False, dtypes=(torch.float32,)))
def test_unspoilt_sets_hold_finite_numbers_but_for_padding(tokens):
    assert real_features(tokens).isfinite().all()
    assert real_attention(tokens).isfinite().all()
    assert (real_attention(tokens).sum(0) <= 1).all() or len(tokens.features) > 1


@settings(max_examples=50)
@given(token_sets(needs={SEEN, KEYS}, spoilt=False, dtypes=(torch.float32,)))
def test_what_a_vision_tower_shows_has_heads_and_keys_dimensions(tokens):
    batch, length = tokens.present.shape
    assert tokens.signals[SEEN].ndim == 3
    assert tokens.signals[KEYS].ndim == 4
    for signal, low in ((SEEN, 0), (KEYS, -1)):
        found = tokens.signals[signal]
        assert (len(found), found.shape[-1]) == (batch, length)
        real = found.movedim(-1, 1)[tokens.present]
        assert ((real >= low) & (real <= 1)).all()


ALL_SIGNALS = {
    pk.TextRows(),
    pk.TextFeatures(),
    pk.InputFeatures(),
    pk.VisionAttention(),
    pk.VisionKeys(),
    pk.Sizes(),
}


@settings(max_examples=50)
@given(merges(needs=ALL_SIGNALS))
def test_merges_keep_present_tokens_and_sums_are_exact(merge):
    selection, tokens = merge.selection, merge.tokens
    assert not (selection.kept & ~tokens.present).any()
    assert (selection.kept.any(-1) == tokens.present.any(-1)).all()
    eighths = 16 * real_features(tokens).nan_to_num(0, 0, 0)
    assert torch.equal(eighths, eighths.round()) and (eighths.abs() <= 128).all()
    assert (tokens.signals[pk.Sizes()][tokens.present].nan_to_num(1, 1, 1) >= 1).all()


@settings(max_examples=50)
@given(token_sets(needs=ALL_SIGNALS, dtypes=(torch.float32,)))
def test_cosines_of_keys_are_quarters_in_one_head_and_in_all(tokens):
    held = tokens.signals[pk.VisionKeys()]
    for vectors in (held.mean(1).mT, held.flatten(1, 2).mT):
        both = tokens.present[:, :, None] & tokens.present[:, None]
        quarters = 4 * cosine(unit(vectors), unit(vectors))[both]
        assert torch.equal(quarters, quarters.round())


@settings(max_examples=20)
@given(token_sets(needs={pk.Distance()}, layouts=[[(2, 3), (1, 4)], [], [(5, 1)]]))
def test_layouts_that_are_given_are_whole(tokens):
    cells = [sorted(map(tuple, tokens.positions[one][tokens.present[one]].tolist())) for one in range(3)]
    assert cells[0] == [(0, row, column) for row in range(2) for column in range(3)] + [
        (1, 0, column) for column in range(4)
    ]
    assert cells[1] == []
    assert cells[2] == [(0, row, 0) for row in range(5)]
    assert tokens.signal(pk.Distance()).shape == tokens.present.shape
