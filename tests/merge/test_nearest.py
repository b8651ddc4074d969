"""What `nearest` merges: sums add up, a share is of the tokens no other selector kept."""

import pytest
import torch

import prunekit as pk
from prunekit.testing import holds
from prunekit.testing.laws import keeps_the_sum
from prunekit_plugins.merge.nearest import Nearest


@pytest.mark.parametrize("fields", [{}, {"halves": True}, {"distance": "euclidean"}])
def test_a_sum_keeps_the_sum(fields):
    holds(keeps_the_sum, Nearest(rule="sum", **fields), examples=50)


def test_a_mean_does_not():
    with pytest.raises(AssertionError, match="features added up to"):
        holds(keeps_the_sum, Nearest())


def test_a_share_is_of_what_no_other_selector_kept():
    """Of 10 tokens 2 are kept by others; of the other 8 the best 3 are merged, their centre among them."""
    tokens = pk.TokenBatch.grid(torch.ones(1, 10, 1), 1, 10)
    scores = torch.arange(10.0, 0, -1)[None]
    kept_by = torch.full((1, 10), -1)
    kept_by[0, :2], kept_by[0, 3] = 0, 1
    selection = pk.Selection(
        kept_by >= 0, kept_by, ("best", "centres"), scores, scores, tokens.positions, tokens.present
    )
    merger = Nearest(into=("centres",), share=0.3, rule="sum")
    assert merger(tokens, selection)[0, :, 0].tolist() == [1, 1, 1, 3, 1, 1, 1, 1, 1, 1]
    whole = merger.model_copy(update={"share": 1.0})
    assert whole(tokens, selection)[0, 3].tolist() == [8]


def test_scores_below_zero_count_nothing():
    tokens = pk.TokenBatch.grid(torch.tensor([[[1.0], [2.0], [4.0], [8.0]]]), 1, 4)
    scores = torch.tensor([[0.5, -1.0, torch.nan, 0.25]])
    kept_by = torch.tensor([[0, -1, -1, -1]])
    selection = pk.Selection(
        kept_by >= 0, kept_by, ("best",), scores, scores, tokens.positions, tokens.present
    )
    assert Nearest(rule="sum", weight="score")(tokens, selection)[0, 0].tolist() == [2.5]
    assert Nearest(rule="add", weight="score")(tokens, selection)[0, 0].tolist() == [3.0]
