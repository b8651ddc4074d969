"""Every shipped pipeline on layouts that models really have: exactly as many tokens as its budget says."""

import pytest
import torch
from hypothesis import given, settings

import prunekit as pk
from prunekit.budget import room_for
from prunekit.testing import token_sets

SHIPPED = [entry.name for entry in pk.installed().pipelines]

LAYOUTS = {
    "1": [[(1, 1)]],
    "2": [[(1, 2)]],
    "7": [[(7, 1)]],
    "49": [[(7, 7)]],
    "576": [[(24, 24)]],
    "strips": [[(1, 60)], [(1, 11)]],
    "tiles": [[(6, 6), (6, 6), (3, 12)], [(5, 4)]],
    "videos": [[(4, 4)] * 6, [(3, 5)] * 2],
    "ragged": [[(8, 8)], [], [(1, 1)], [(2, 4), (3, 3)]],
}
"""The rows and columns of the planes of each sample."""


def without_a_model(pipeline, prior_file):
    """The pipeline, with a prior that needs no model where it has one."""
    prior = {"use": "measured", "prior": str(prior_file)}
    return pipeline.swap(bias=[prior if bias.use == "measured" else bias for bias in pipeline.bias])


def one(tokens, sample):
    """One sample alone, without its padding."""
    present = tokens.present[sample]
    signals = {
        signal: value[sample, ..., present][None] if signal.per_token else value[sample][None]
        for signal, value in tokens.signals.items()
    }
    return pk.TokenBatch(
        tokens.features[sample, present][None],
        tokens.positions[sample, present][None],
        present[present][None],
        signals,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SHIPPED)
def test_exactly_as_many_as_the_budget_says(name, layout, prior_file):
    pipeline = without_a_model(pk.load(name), prior_file)

    @settings(max_examples=2)
    @given(token_sets(needs=pipeline.needs, layouts=LAYOUTS[layout]))
    def on_many(tokens):
        assert tokens.counts.tolist() == [sum(map(_area, planes)) for planes in LAYOUTS[layout]]
        wanted = torch.stack([room_for(tokens.counts, cut.budget) for cut in pipeline.cuts]).amin(0)
        assert wanted.tolist() == [
            pipeline.schedule(count).kept[-1] if count else 0 for count in tokens.counts.tolist()
        ]
        selection = pipeline(tokens)
        assert torch.equal(selection.counts, wanted)
        assert not (selection.kept & ~tokens.present).any()
        assert torch.equal(pipeline(tokens, engine="device").settled().kept, selection.kept)
        for sample, present in enumerate(tokens.present):
            assert torch.equal(pipeline(one(tokens, sample)).kept[0], selection.kept[sample, present])

    on_many()


def _area(plane):
    return plane[0] * plane[1]


@pytest.mark.parametrize(
    ("name", "layers", "kept"),
    [
        ("pyramiddrop", (8, 16, 24), (288, 144, 72)),
        ("pyramiddrop-debiased", (8, 16, 24), (288, 144, 72)),
        ("sparsevlm", (3, 7, 16), (300, 200, 110)),
        ("sparsevlm-debiased", (3, 7, 16), (300, 200, 110)),
        ("sparsevlm-v2", (3, 7, 16), (300, 200, 118)),
    ],
)
def test_published_schedules(name, layers, kept):
    """Of 576 tokens, those kept for their scores; the first SparseVLM adds clusters to them."""
    pipeline, before = pk.load(name), 576
    assert pipeline.schedule(576).layers == layers
    for cut, count in zip(pipeline.cuts, kept, strict=True):
        recycled = int(0.3 * (before - count)) + 1
        before = count + (recycled // 10 + 1 if pipeline.merge else 0)
        assert cut.budget in {before, count / 576}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_says_what_it_is_and_where_it_comes_from(name):
    assert pk.load(name).summary.endswith(".")
    assert all(cited.startswith("arXiv:") for cited in pk.load(name).cites)


@pytest.mark.parametrize(
    "name",
    [
        "fastervlm", "vispruner", "holov", "hiprune", "scope", "idpruner", "visionzip", "visionzip-mean",
        "prumerge", "prumerge-plus",
    ],
)  # fmt: skip
def test_what_the_vision_encoder_says_prunes_its_features(name):
    assert pk.load(name).at == pk.At(layer=0, features="vision")
