"""`prunekit list`, `show`, `check` and `schema`: what there is, and whether a file is right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from commands import Prunekit

import prunekit as pk
from prunekit.registry import Origin, PipelineEntry

SHIPPED = [entry.name for entry in pk.installed().pipelines]


def test_list_names_the_plugin_and_file_of_everything(prunekit: Prunekit):
    listed = json.loads(prunekit("list", "--json").out)
    assert listed["broken"] == []
    stages = {(entry["kind"], entry["name"]) for entry in listed["stages"]}
    assert {
        ("importance", "text_attention"),
        ("bias", "measured"),
        ("graph", "blend"),
        ("select", "mis"),
    } <= stages
    for entry in listed["stages"] + listed["pipelines"]:
        assert Path(entry["file"]).is_file()
        assert entry["plugin"]


def test_list_for_people(prunekit: Prunekit):
    result = prunekit("list")
    assert result.code == 0
    for name in ("mis", "faiss_knn", *SHIPPED):
        assert name in result.out


def test_list_puts_pipelines_under_their_families(prunekit: Prunekit):
    listed = {entry["name"]: entry for entry in json.loads(prunekit("list", "--json").out)["pipelines"]}
    assert listed["fastv"]["family"] == "attention"
    assert listed["fastv"]["places"] == ["layer 2"]
    assert listed["fastv"]["budgets"] == [0.5]
    assert listed["fastv"]["of_question"]
    assert not listed["divprune"]["of_question"]
    lines = [line.strip() for line in prunekit("list").out.splitlines()]
    assert lines.index("diversity") < next(i for i, line in enumerate(lines) if line.startswith("divprune "))


def test_a_pipeline_that_cannot_be_loaded_does_not_take_the_list_down(
    prunekit: Prunekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "sad.yaml"
    file.write_text("extends: fastv\nbudget: none\n")
    held = pk.installed()
    sad = PipelineEntry("sad", Origin("somebody", file))
    monkeypatch.setattr(
        "prunekit.cli.list.installed", lambda: replace(held, pipelines=(*held.pipelines, sad))
    )
    result = prunekit("list")
    assert result.code == 0
    assert "divprune" in result.out
    assert "'sad' could not be loaded" in result.err
    (listed,) = (e for e in json.loads(prunekit("list", "--json").out)["pipelines"] if e["name"] == "sad")
    assert "budget" in listed["fault"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_says_what_it_is(name: str):
    written = yaml.safe_load(pk.installed().pipeline(name).origin.file.read_text())
    assert written["summary"].endswith(".")
    assert pk.load(name).family != "other"


@pytest.mark.parametrize("name", SHIPPED)
def test_show_prints_yaml_that_loads_again(prunekit: Prunekit, name: str, tmp_path: Path):
    file = tmp_path / "shown.yaml"
    file.write_text(pk.to_yaml(pk.load(name)))
    assert pk.load(file) == pk.load(name)
    shown = prunekit("show", name)
    assert shown.code == 0
    assert "importance" in shown.out
    assert "select" in shown.out
    assert "depends on the question" in shown.out or name == "ippro"
    assert json.loads(prunekit("show", name, "--json").out)["name"] == name


def test_check_points_at_every_mistake(prunekit: Prunekit, tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "extends: d2pruner\nbudget: 1.5\ngrph: 3\ngraph:\n  use: blend\n  semantic: {use: cosin}\n"
        "  spatial: {use: grid, fallof: linear}\n  alpha: on\n"
        "select:\n  - {use: mis, around_kept: sometimes}\n"
    )
    result = prunekit("check", file)
    assert result.code == 2
    for place, told in {
        "2:1": "budget",
        "3:1": "Did you mean 'graph'?",
        "6:3": "Did you mean 'cosine'?",
        "7:24": "Did you mean 'falloff'?",
        "8:3": "graph.alpha",
        "10:16": "select.0.around_kept",
    }.items():
        line = next(line for line in result.err.splitlines() if f"bad.yaml:{place}:" in line)
        assert told in line


def test_check_of_several_files(prunekit: Prunekit, tmp_path: Path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("extends: fastv\nbudget: 12\n")
    bad.write_text("extends: fastv\nbudget: 12\nbudget: 13\n")
    assert prunekit("check", good).code == 0
    result = prunekit("check", good, bad, tmp_path / "nowhere.yaml", "--json")
    assert result.code == 2
    assert [entry["ok"] for entry in json.loads(result.out)] == [True, False, False]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_accepts_what_is_shipped(prunekit: Prunekit, name: str):
    schema = json.loads(prunekit("schema").out)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    written = yaml.safe_load(pk.installed().pipeline(name).origin.file.read_text())
    resolved = yaml.safe_load(pk.to_yaml(pk.load(name)))
    assert not list(validator.iter_errors(written))
    assert not list(validator.iter_errors(resolved))


@pytest.mark.parametrize(
    "wrong",
    [
        {"grph": None},
        {"graph": {"use": "cosin"}},
        {"graph": {"use": "grid", "fallof": "linear"}},
        {"select": [{"share": 1}]},
    ],
)
def test_the_schema_refuses_what_a_file_must_not_say(prunekit: Prunekit, wrong: dict[str, object]):
    validator = jsonschema.Draft202012Validator(json.loads(prunekit("schema").out))
    assert list(validator.iter_errors({"extends": "d2pruner", **wrong}))
