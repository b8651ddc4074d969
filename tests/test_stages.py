"""Pipelines of several places: how they are written, what they hold, what they keep."""

import json

import jsonschema
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.budget import room_for
from prunekit.files import with_settings
from prunekit.schema import json_schema
from prunekit.testing import token_sets

PYRAMID = """
name: pyramid
importance: feature_norm
select: top_k
stages:
  - {at: {layer: 0}, budget: 0.5, bias: exponential}
  - {at: {layer: 8}, budget: 0.25}
  - {at: {layer: 16}, budget: 3, select: [uniform_grid, top_k]}
"""


def written(folder, text, name="pipeline.yaml"):
    file = folder / name
    file.write_text(text)
    return file


def refused(folder, text):
    with pytest.raises(pk.ConfigError) as caught:
        pk.load(written(folder, text))
    return str(caught.value)


def test_places_have_what_they_do_not_say_from_the_pipeline(tmp_path):
    first, second, third = pk.load(written(tmp_path, PYRAMID)).cuts
    assert [cut.at.layer for cut in (first, second, third)] == [0, 8, 16]
    assert [cut.budget for cut in (first, second, third)] == [0.5, 0.25, 3]
    assert [len(cut.bias) for cut in (first, second, third)] == [1, 0, 0]
    assert second == first.swap(at={"layer": 8}, budget=0.25, bias=None)
    assert [stage.use for stage in third.parts] == ["feature_norm", "uniform_grid", "top_k"]
    assert pk.load("fastv").cuts == (pk.load("fastv"),)


def test_written_and_read_it_is_the_same(tmp_path):
    pyramid = pk.load(written(tmp_path, PYRAMID))
    text = pk.to_yaml(pyramid)
    assert pk.load(written(tmp_path, text, "again.yaml")) == pyramid
    assert set(yaml.safe_load(text)["stages"][1]) == {"at", "budget"}
    assert "at" not in yaml.safe_load(text)
    jsonschema.validate(yaml.safe_load(PYRAMID), json_schema(pk.installed()))
    jsonschema.validate(json.loads(pyramid.model_dump_json()), json_schema(pk.installed()))


def test_vision_is_a_word_for_a_place(tmp_path):
    fastv = pk.load("fastv")
    assert fastv.swap(at="vision").at == pk.At(layer=0, features="vision")
    seen = pk.load(written(tmp_path, "extends: fastv\nat: vision\n"))
    assert seen.at.features == "vision"
    assert pk.load(written(tmp_path, pk.to_yaml(seen))) == seen
    jsonschema.validate({"at": "vision"}, json_schema(pk.installed()))
    assert "or the word vision" in refused(tmp_path, "extends: fastv\nat: visoin\n")


def test_a_child_changes_what_all_places_share(tmp_path):
    written(tmp_path, PYRAMID, "pyramid.yaml")
    child = pk.load(written(tmp_path, "extends: pyramid.yaml\nname: child\nimportance: constant\n"))
    assert [cut.importance.use for cut in child.cuts] == ["constant"] * 3
    several = pk.load(written(tmp_path, "extends: fastv\nstages: [{at: {layer: 3}, budget: 0.2}]\n"))
    assert several.cuts[0].importance == pk.load("fastv").importance
    assert several.swap(stages=[], at={"layer": 2}).cuts[0].at.layer == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("at: {layer: 2}", "at: every one of the stages gives its own"),
        ("budget: 0.2", "budget: every one of the stages gives its own"),
        ("stages: [{budget: 0.2}]", "stages.0.at: this field is required"),
        ("stages: [{at: {layer: 2}, bugdet: 1}]", "Did you mean 'budget'?"),
        ("stages: [{at: {layer: 2}}, {at: {layer: 2}}]", "ascending layers; got [2, 2]"),
        ("stages: [{at: {layer: 2}, budget: 1}, {at: {layer: 3}, budget: 2}]", "never rise"),
        ("stages: [{at: {layer: 2}, select: [top_kk]}]", "Did you mean 'top_k'?"),
    ],
)
def test_mistakes_are_said(tmp_path, text, message):
    written(tmp_path, PYRAMID, "pyramid.yaml")
    assert message in refused(tmp_path, f"extends: pyramid.yaml\n{text}\n")


@pytest.mark.parametrize(
    "text, place",
    [
        ("stages:\n- at: {layer: 1}\n  select: {use: top_k, share: 7}\n", "4:24"),
        ("stages:\n- at: {layer: 1}\n- at: {layer: 2}\n  bias: {use: padding, treshold: 1}\n", "5:24"),
        ("stages: [{at: {layer: 2}}, {at: {layer: 2}}]\n", "2:1"),
        ("stages: [{at: {layer: 2}, budget: 1}, {at: {layer: 3}, budget: 2}]\n", "2:1"),
        ("stages: [{at: {layer: 2}}]\nname: mine\nat: {layer: 2}\n", "4:1"),
    ],
)
def test_mistakes_are_marked_where_they_stand(tmp_path, text, place):
    assert f"pipeline.yaml:{place}: " in refused(tmp_path, f"extends: fastv\n{text}")


def test_an_unknown_parent_hides_no_mistake_of_places(tmp_path):
    told = refused(tmp_path, f"extends: nobody\n{PYRAMID.replace('layer: 16', 'layer: 4')}")
    assert "ascending layers" in told
    assert "extends: There is no pipeline" in told


@pytest.mark.parametrize("stages", ["5", "true", "1.5", "word", "{at: {layer: 2}}", "[1]", "[null]", "null"])
def test_what_is_no_list_of_places_is_refused_where_it_stands(tmp_path, stages):
    assert "pipeline.yaml:2:" in refused(tmp_path, f"extends: fastv\nstages: {stages}\n")
    with pytest.raises(pk.ConfigError, match="stages"):
        pk.load("fastv").swap(stages=yaml.safe_load(stages))


def test_a_block_that_places_leave_open_is_the_parents(tmp_path):
    """None stands for a block that is not given, where a pipeline cannot be without it."""
    written(tmp_path, "extends: fastv\nbudget: 0.3\n", "parent.yaml")
    open_ = "extends: parent.yaml\nstages: [{at: {layer: 1}, budget: null}, {at: {layer: 2}, budget: null}]\n"
    assert [cut.budget for cut in pk.load(written(tmp_path, open_)).cuts] == [0.3, 0.3]


PLACES = st.fixed_dictionaries(
    {"at": st.just({"layer": 1})},
    optional={
        "budget": st.sampled_from([0.75, None]),
        "importance": st.sampled_from(["constant", None]),
        "bias": st.sampled_from(["padding", None, []]),
        "graph": st.sampled_from(["cosine", None]),
        "select": st.sampled_from(["fill", []]),
        "merge": st.sampled_from(["nearest", None]),
    },
)


@settings(max_examples=200)
@given(PLACES, PLACES)
def test_places_are_equal_just_if_they_do_the_same_in_every_pipeline(one, other):
    """A block given as none takes the pipeline's away; one that is not given leaves it."""
    whole = pk.load("fastv").swap(bias="exponential", graph="grid", merge="neighbours")
    last = {"at": {"layer": 2}}  # so that no block is given in all places
    first, second = (whole.swap(stages=[place, last]) for place in (one, other))
    same = first.cuts == second.cuts
    assert (first == second) is same
    assert (first.stages[0] == second.stages[0]) is same
    assert (repr(first.stages[0]) == repr(second.stages[0])) is same
    assert len({*first.stages, *second.stages}) == 3 - same
    assert pk.Pipeline.validated(first.model_dump(), pk.installed(), "a test").cuts == first.cuts


@settings(max_examples=100)
@given(st.lists(PLACES, max_size=3))
def test_any_places_survive_the_round_trip(tmp_path_factory, places):
    whole = pk.load("fastv").swap(budget=0.75, bias="exponential", graph="grid", merge="neighbours")
    stages = [{**place, "at": {"layer": layer}} for layer, place in enumerate(places, start=1)]
    pipeline = whole.swap(stages=stages)
    again = pk.load(written(tmp_path_factory.getbasetemp(), pk.to_yaml(pipeline), "places.yaml"))
    assert again == pipeline
    assert again.cuts == pipeline.cuts
    assert pipeline.swap() == pipeline
    assert with_settings(pipeline, ["name=other"]) == pipeline.swap(name="other")


BUDGETS = st.lists(st.integers(1, 12) | st.floats(0.05, 1), min_size=1, max_size=3)


@settings(max_examples=60)
@given(token_sets(), BUDGETS)
def test_each_place_keeps_what_its_budget_says_of_the_prompt(tokens, budgets):
    budgets = sorted(budgets, key=lambda budget: (isinstance(budget, int), -budget))
    stages = [{"at": {"layer": layer}, "budget": budget} for layer, budget in enumerate(budgets)]
    pipeline = pk.load("uniform_grid").swap(stages=stages)
    left, room = tokens.present, tokens.counts
    for cut in pipeline.cuts:
        batch = pk.TokenBatch(tokens.features, tokens.positions, left, total=tokens.counts)
        kept = cut(batch).kept
        room = room_for(tokens.counts, cut.budget).minimum(room)
        assert torch.equal(kept.sum(-1), room)
        assert not (kept & ~left).any()
        left = kept
    assert torch.equal(pipeline(tokens).kept, left)
    assert torch.equal(pipeline(tokens, engine="device").settled().kept, left)
