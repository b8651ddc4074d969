"""Priors: measured, fitted to other grids, written and read."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.prior import Prior, cached
from prunekit_plugins.bias.measured import Measured


def prior_of(whole):
    return Prior(whole, torch.ones(len(whole)).long(), "a model", 2, "Please describe.", 3)


def scored(tokens, scores):
    """A selection that carries these scores."""
    return pk.Selection(
        tokens.present, torch.zeros_like(tokens.positions[..., 0]), ("rest",), scores, scores,
        tokens.positions, tokens.present,
    )  # fmt: skip


def test_the_prior_is_the_mean_over_images_at_each_place():
    tokens = pk.TokenBatch.grid(torch.zeros(3, 12, 1), 2, 3)
    scores = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    halves = [scored(pk.TokenBatch.grid(torch.zeros(n, 12, 1), 2, 3), part)
              for n, part in ((1, scores[:1]), (2, scores[1:]))]  # fmt: skip
    prior = Prior.measured(halves, model="a model", layer=2, prompt="Please describe.")
    assert prior.images == 3
    torch.testing.assert_close(prior.whole.flatten(), scores.mean(0))
    torch.testing.assert_close(prior.tile.flatten(), scores.reshape(3, 2, 6).mean((0, 1)))
    torch.testing.assert_close(prior.at(tokens.positions, tokens.present, "whole")[1], scores.mean(0))


def test_padding_and_order_do_not_change_what_is_measured():
    tokens = pk.TokenBatch.grid(torch.zeros(1, 6, 1), 2, 3)
    scores = torch.arange(6.0)[None]
    padded = pk.TokenBatch(
        torch.zeros(1, 8, 1),
        torch.cat([torch.full((1, 2, 3), 50), tokens.positions.flip(1)], 1),
        torch.tensor([[False] * 2 + [True] * 6]),
    )
    messy = scored(padded, torch.cat([torch.full((1, 2), torch.nan), scores.flip(1)], 1))
    measured = [Prior.measured([s], model="m", layer=0, prompt="p") for s in (scored(tokens, scores), messy)]
    assert torch.equal(measured[0].whole, measured[1].whole)


def test_merging_priors_is_measuring_all_images_at_once():
    tokens = pk.TokenBatch.grid(torch.zeros(5, 6, 1), 2, 3)
    scores = torch.rand(5, 6, generator=torch.Generator().manual_seed(1))
    parts = [scored(pk.TokenBatch.grid(torch.zeros(len(part), 6, 1), 2, 3), part)
             for part in (scores[:2], scores[2:])]  # fmt: skip
    told = {"model": "m", "layer": 1, "prompt": "p"}
    first, second = (Prior.measured([part], **told) for part in parts)
    together = Prior.measured([scored(tokens, scores)], **told)
    merged = first.merged(second)
    torch.testing.assert_close(merged.whole, together.whole)
    assert merged.images == together.images == 5
    assert torch.equal(merged.counts, together.counts)


def test_priors_of_different_origin_are_not_merged():
    one = prior_of(torch.rand(1, 2, 2))
    other = Prior(one.whole, one.counts, "another model", 2, "Please describe.", 3)
    with pytest.raises(pk.ConfigError, match="not measured alike"):
        one.merged(other)


def test_nothing_to_measure_is_refused():
    tokens = pk.TokenBatch.grid(torch.zeros(1, 4, 1), 2, 2)
    gone = pk.TokenBatch(tokens.features, tokens.positions, torch.zeros(1, 4, dtype=torch.bool))
    for selections in ([], [scored(gone, torch.zeros(1, 4))]):
        with pytest.raises(pk.TokenError, match="at least one"):
            Prior.measured(selections, model="m", layer=0, prompt="p")


@settings(max_examples=60)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    resize=st.sampled_from(["bilinear", "linear"]),
    layout=st.sampled_from(["tile", "whole"]),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_resized_prior_keeps_its_mean(rows, columns, resize, layout, seed):
    whole = 0.1 + torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    tokens = pk.TokenBatch.grid(torch.zeros(1, 2 * rows * columns, 1), rows, columns)
    prior = prior_of(whole)
    values = prior.at(tokens.positions, tokens.present, layout, resize)[0].reshape(2, -1)
    means = prior.whole.flatten(1).mean(1) if layout == "whole" else prior.tile.mean().expand(2)
    torch.testing.assert_close(values.mean(1), means)


def looked_up(prior, positions, present, layout, resize):
    """Plane by plane: the map resized by torch in float64, brought to its mean, and looked at."""
    values = torch.ones(present.shape, dtype=torch.float64)
    maps = (prior.tile[None] if layout == "tile" else prior.whole).double()
    for sample, token in present.nonzero().tolist():
        plane, row, column = positions[sample, token].tolist()
        own = positions[sample][present[sample] & (positions[sample, :, 0] == plane)]
        size = tuple((own[:, 1:].amax(0) + 1).tolist())
        held = maps[0 if layout == "tile" else plane][None, None]
        if resize == "bilinear":
            grown = F.interpolate(held, size, mode="bilinear", align_corners=False)[0, 0]
        else:
            grown = F.interpolate(held.flatten(2), size[0] * size[1], mode="linear").reshape(size)
        grown = held[0, 0] if size == held.shape[2:] else grown * (held.mean() / grown.mean())
        values[sample, token] = grown[row, column]
    return values


@st.composite
def strewn(draw):
    """Samples of up to two planes, shuffled, tokens missing, and padding with garbage anywhere among them."""
    batch, length = draw(st.integers(0, 3)), draw(st.integers(0, 24))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    positions = torch.randint(-(10**9), 10**9, (batch, length, 3), generator=random)
    present = torch.zeros(batch, length, dtype=torch.bool)
    for sample in range(batch):
        sides = [(draw(st.integers(1, 6)), draw(st.integers(1, 6))) for _ in range(draw(st.integers(1, 2)))]
        cells = torch.tensor([(plane, row, column) for plane, (rows, columns) in enumerate(sides)
                              for row, column in product(range(rows), range(columns))])  # fmt: skip
        cells = cells[torch.randperm(len(cells), generator=random)][:length]
        slots = torch.randperm(length, generator=random)[: len(cells)]
        positions[sample, slots], present[sample, slots] = cells, True
    return positions, present


@settings(max_examples=150)
@given(
    tokens=strewn(),
    grid=st.sampled_from([(1, 1), (1, 5), (4, 1), (3, 4), (4, 4)]),
    layout=st.sampled_from(["tile", "whole"]),
    resize=st.sampled_from(["bilinear", "linear"]),
)
def test_the_prior_is_the_resized_map_looked_at(tokens, grid, layout, resize):
    prior = prior_of(0.01 + torch.rand(2, *grid, generator=torch.Generator().manual_seed(0)))
    found = prior.at(*tokens, layout, resize)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), looked_up(prior, *tokens, layout, resize), rtol=2e-6, atol=0)


@pytest.mark.parametrize("resize", ["bilinear", "linear"])
def test_on_an_accelerator_nothing_is_read(resize):
    """Meta tensors hold no values: whoever reads one fails."""
    prior = prior_of(torch.rand(2, 3, 4))
    tokens = pk.TokenBatch.grid(torch.zeros(2, 40, 1), 4, 5)
    values = prior.at(tokens.positions.to("meta"), tokens.present.to("meta"), "tile", resize)
    assert values.shape == (2, 40)
    assert values.device.type == "meta"


def test_planes_of_different_size_each_get_their_own_fit():
    """Two planes of one sample and another plane of another sample, all of different size."""
    whole = 0.1 + torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    prior = prior_of(whole)
    cells = {0: [(0, r, c) for r, c in product(range(2), range(5))],
             1: [(1, r, c) for r, c in product(range(3), range(4))]}  # fmt: skip
    positions = torch.tensor([[*cells[0], *cells[1]]])
    together = prior.at(positions, torch.ones(positions.shape[:2], dtype=torch.bool), "whole")[0]
    torch.testing.assert_close(together[10:].reshape(3, 4), whole[1])
    alone = torch.tensor([cells[0]])
    first = prior.at(alone, torch.ones(alone.shape[:2], dtype=torch.bool), "whole")[0]
    torch.testing.assert_close(together[:10], first)


def test_more_planes_than_measured():
    tokens = pk.TokenBatch.grid(torch.zeros(1, 12, 1), 2, 2)
    prior = prior_of(torch.rand(2, 2, 2))
    with pytest.raises(pk.TokenError, match=r"layouts of 2 planes.*use layout: tile"):
        prior.at(tokens.positions, tokens.present, "whole")
    assert prior.at(tokens.positions, tokens.present, "tile").shape == (1, 12)


def test_a_prior_survives_its_file(tmp_path):
    prior = prior_of(torch.rand(2, 3, 4))
    file = tmp_path / "new" / "prior.safetensors"
    prior.save(file)
    read = Prior.load(file)
    assert torch.equal(read.whole, prior.whole)
    assert torch.equal(read.counts, prior.counts)
    assert (read.model, read.layer, read.prompt, read.images) == ("a model", 2, "Please describe.", 3)
    assert [held.name for held in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("content", [b"", b"not a prior", b"\x00" * 64, b"\xff" * 9])
def test_files_that_hold_no_prior(tmp_path, content):
    file = tmp_path / "prior.safetensors"
    file.write_bytes(content)
    with pytest.raises(pk.ConfigError, match="holds no prior"):
        Prior.load(file)


def test_a_prior_file_that_is_not_there(tmp_path):
    with pytest.raises(pk.ConfigError, match="no prior file"):
        Prior.load(tmp_path / "prior.safetensors")
    with pytest.raises(pk.ConfigError, match="no prior file"):
        Measured(prior=str(tmp_path / "prior.safetensors")).bind(pk.Site("m", 2))
    with pytest.raises(pk.UnknownName, match=r"a file ends in .safetensors"):
        Measured(prior="nobody").bind(pk.Site("m", 2))


def test_auto_finds_the_prior_beside_the_weights(tmp_path):
    prior_of(torch.rand(1, 2, 2)).save(cached(str(tmp_path), 2))
    bound = Measured().bind(pk.Site(str(tmp_path), 2))
    assert bound.prior == str(tmp_path / "prior-layer2.safetensors")
    tokens = pk.TokenBatch.grid(torch.zeros(1, 4, 1), 2, 2)
    assert bound(tokens).removal == "ratio"
    with pytest.raises(pk.ConfigError, match="at layer 5"):
        Measured().bind(pk.Site(str(tmp_path), 5))
    with pytest.raises(pk.ConfigError, match="come from nowhere"):
        Measured()(tokens)


def test_a_prior_measured_anew_is_read_anew(tmp_path):
    file = tmp_path / "prior.safetensors"
    tokens = pk.TokenBatch.grid(torch.zeros(1, 4, 1), 2, 2)
    bias = Measured(prior=str(file))
    for value in (0.25, 0.5):
        prior_of(torch.full((1, 2, 2), value)).save(file)
        assert bias(tokens).values.tolist() == [[value] * 4]
