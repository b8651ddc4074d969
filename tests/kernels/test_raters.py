"""Which text tokens rate: the rule written out, and what it must survive."""

import torch

from prunekit.kernels.raters import raters


def test_raters_are_above_the_mean():
    generator = torch.Generator().manual_seed(0)
    visual, text = torch.randn(2, 20, 6, generator=generator), torch.randn(2, 7, 6, generator=generator)
    present, spoken = (
        torch.arange(20) < torch.tensor([[20], [11]]),
        torch.arange(7) < torch.tensor([[5], [7]]),
    )
    found = raters(visual, text, present, spoken)
    for sample in range(2):
        seen, said = visual[sample, present[sample]], text[sample, spoken[sample]]
        relevance = (seen @ said.T).softmax(-1).mean(0)
        assert found[sample, spoken[sample]].tolist() == (relevance > relevance.mean()).tolist()
        assert not found[sample, ~spoken[sample]].any()


def test_where_none_is_above_the_mean_all_rate():
    spoken = torch.tensor([[True, True, False]])
    assert (
        raters(torch.ones(1, 4, 2), torch.ones(1, 3, 2), torch.ones(1, 4) > 0, spoken).tolist()
        == spoken.tolist()
    )


def test_values_beyond_all_bounds():
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    spoken, present = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    huge = torch.tensor([[[3e38, 1e38], [torch.nan, 0.0]]])
    assert raters(huge, 3e38 * text, present, spoken).tolist() == [[False, False, True]]
    nothing = raters(huge[:, :0], text, present[:, :0], spoken)
    assert nothing.all()
