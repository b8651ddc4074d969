"""Cards say what the stages of a pipeline say, wherever it prunes."""

from dataclasses import dataclass
from typing import Literal

import pytest

import prunekit as pk
from prunekit.card import Card

STEPS = [{"at": {"layer": 8}, "budget": 0.5}, {"at": {"layer": 16}, "budget": 32}]


def card(name, **changes):
    return Card(pk.load(name).swap(**changes))


@pytest.mark.parametrize(
    "name, changes, expected",
    [
        ("fastv", {}, True),
        ("fastv", {"importance": "vision_attention"}, False),
        ("fastv", {"importance": "feature_norm"}, False),
        ("dart", {}, True),
        ("dart", {"select": [{"use": "top_k", "most": 4}, {"use": "unlike", "texts": 0}]}, False),
        ("cdpruner", {}, True),
        ("cdpruner", {"importance": {"use": "text_similarity", "space": "joint"}}, True),
        ("sparsevlm", {}, True),
        ("visionzip", {}, False),
    ],
)
def test_the_question_matters_where_text_is_looked_at(name, changes, expected):
    assert card(name, **changes).of_question is expected


def test_a_prior_is_needed_until_one_is_named():
    assert card("d2pruner").of_prior
    assert "a prior, measured once for a model" in card("d2pruner").needs
    assert not card("d2pruner", bias={"use": "measured", "prior": "testbed-layer2"}).of_prior
    assert not card("d2pruner", bias=None).of_prior


def test_several_places_are_told_in_turn():
    told = card("fastv", stages=[*STEPS, {"at": {"layer": 24}, "budget": 8, "merge": "nearest"}])
    assert told.places == ("layer 8", "layer 16", "layer 24")
    assert told.budgets == (0.5, 32, 8)
    assert told.prunes == "layer 8: 50 %; layer 16: 32 tokens; layer 24: 8 tokens"
    assert told.merges == ("nearest",)


def test_features_of_the_vision_encoder_are_a_need():
    told = card("fastervlm", at="vision")
    assert told.places == ("before the language model",)
    assert "features of the vision encoder" in told.needs


def test_the_most_that_any_stage_compares():
    assert card("fastv").compares == "none"
    assert card("fastv", select="mmr").compares == "each token with the kept ones: n·N"
    assert card("fastv", select="mmr", graph="cosine").compares == "up to all: N²"
    stages = [STEPS[0], {**STEPS[1], "select": "coverage"}]
    assert card("fastv", stages=stages).compares == "up to all: N²"


def test_a_merger_of_mergers_is_told_by_its_parts():
    assert card("prumerge").merges == ("neighbours", "nearest")


def test_channels_have_no_question_and_no_place():
    told = Card(pk.load("ippro"))
    assert told.places == ("channels",)
    assert not {"depends on the question", "position ids", "goes by"} & set(told.facts)


@dataclass(frozen=True, slots=True)
class Depth(pk.Signal):
    """How far away things are."""

    near: float = 0.5


class Nearby(pk.ImportanceScorer):
    """A stage of somebody else."""

    use: Literal["nearby"] = "nearby"

    @property
    def needs(self):
        return frozenset({Depth()})

    def __call__(self, tokens):
        return tokens.signal(Depth())


def test_a_signal_of_somebody_else_is_told_by_its_name():
    told = card("fastv", importance=Nearby())
    assert told.needs == ("Depth (near 0.5)",)
    assert not told.of_question


def test_as_data_is_plain():
    data = card("d2pruner").as_data()
    assert data["family"] == "attention + diversity"
    assert data["cites"] == ["arXiv:2512.19443"]
    assert data["compares"] == "all"
    assert data["places"] == ["layer 2"]
