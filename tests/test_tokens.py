"""The values that flow: what fits is taken, what does not is refused with shapes named."""

import pytest
import torch
from hypothesis import given

import prunekit as pk
from prunekit.testing import token_sets

FEATURES, POSITIONS = torch.zeros(2, 6, 4), torch.zeros(2, 6, 3, dtype=torch.long)
PRESENT = torch.ones(2, 6, dtype=torch.bool)


@pytest.mark.parametrize(
    "positions, present, signals, message",
    [
        (
            POSITIONS[..., :2],
            PRESENT,
            {},
            r"positions are \(batch, tokens, 3\) = \(2, 6, 3\); got \(2, 6, 2\)",
        ),
        (POSITIONS, PRESENT[:, 1:], {}, r"present is a bool mask .* = \(2, 6\); got torch.bool \(2, 5\)"),
        (POSITIONS, PRESENT.long(), {}, r"present is a bool mask .*; got torch.int64"),
        (POSITIONS, PRESENT, {pk.PaddedShare(): torch.zeros(2, 5)}, r"signal PaddedShare\(\) is .*\(2, 5\)"),
        (
            POSITIONS,
            PRESENT,
            {pk.TextAttention(): torch.zeros(1, 3, 6)},
            r"signal TextAttention.*\(1, 3, 6\)",
        ),
    ],
)
def test_shapes_that_do_not_agree_are_refused(positions, present, signals, message):
    """Shape checks of the suite are around this check of the library's own, which strangers meet."""
    batch = pk.TokenBatch.grid(FEATURES, 2, 3)
    for name, value in {"positions": positions, "present": present, "signals": signals}.items():
        object.__setattr__(batch, name, value)
    with pytest.raises(pk.TokenError, match=message):
        batch.__post_init__()


def test_features_without_a_batch_are_refused():
    batch = pk.TokenBatch.grid(FEATURES, 2, 3)
    object.__setattr__(batch, "features", FEATURES[0])
    with pytest.raises(pk.TokenError, match=r"features are \(batch, tokens, dim\); got \(6, 4\)"):
        batch.__post_init__()


def test_a_grid_is_in_raster_order_plane_by_plane():
    tokens = pk.TokenBatch.grid(torch.zeros(1, 12, 1), 2, 3)
    assert tokens.positions[0].tolist() == [[p, r, c] for p in range(2) for r in range(2) for c in range(3)]
    assert tokens.counts.tolist() == [12]


@pytest.mark.parametrize("rows, columns", [(5, 1), (0, 3), (4, 2)])
def test_tokens_that_fill_no_grid_are_refused(rows, columns):
    with pytest.raises(pk.TokenError, match="6 tokens are not a whole number of"):
        pk.TokenBatch.grid(FEATURES, rows, columns)


def test_a_signal_that_was_not_captured_is_named():
    tokens = pk.TokenBatch.grid(FEATURES, 2, 3, {pk.PaddedShare(): torch.zeros(2, 6)})
    assert tokens.signal(pk.PaddedShare()).shape == (2, 6)
    with pytest.raises(pk.UnknownName, match=r"no TextAttention\(query='last'.*held: PaddedShare\(\)"):
        tokens.signal(pk.TextAttention())


@pytest.mark.parametrize("removal, freed", [("ratio", 2.0), ("difference", 0.25), ("weight", 0.125)])
def test_removing_a_bias(removal, freed):
    bias = pk.Bias(torch.full((1, 2), 0.25), removal, 0.0)
    assert bias.remove(torch.full((1, 2), 0.5)).tolist() == [[freed, freed]]


@pytest.mark.parametrize("removal", ["ratio", "difference", "weight"])
def test_a_half_precision_bias_is_removed_in_float32(removal):
    """1e-7 is nothing in float16: a ratio computed there would be infinite where the bias is zero."""
    bias = pk.Bias(torch.zeros(1, 2, dtype=torch.float16), removal)
    freed = bias.remove(torch.full((1, 2), 0.5, dtype=torch.float16))
    assert freed.dtype == torch.float32
    assert freed.isfinite().all()


@given(token_sets())
def test_indices_list_the_kept_of_each_sample(tokens):
    selection = pk.load("uniform_grid").swap(budget=0.4)(tokens)
    assert selection.indices.shape == (len(tokens.present), int(selection.counts.max()))
    for sample, row in enumerate(selection.indices.tolist()):
        count = int(selection.counts[sample])
        assert row[:count] == selection.kept[sample].nonzero().flatten().tolist()
        assert set(row[count:]) <= {-1}


def test_signals_that_are_not_said_of_each_token_may_have_any_length():
    texts = torch.zeros(2, 9, 3)
    tokens = pk.TokenBatch(FEATURES, POSITIONS, PRESENT, {pk.TextFeatures(): texts})
    assert tokens.signal(pk.TextFeatures()) is texts
    with pytest.raises(pk.TokenError, match=r"TextFeatures.* is \(batch, …, dim\) = \(2, …\)"):
        pk.TokenBatch(FEATURES, POSITIONS, PRESENT, {pk.TextFeatures(): texts[:1]})
