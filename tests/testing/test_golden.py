"""Shipped methods against what the official implementations give, and how that is compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prunekit as pk
from prunekit.testing.golden import (
    PIPELINES,
    RUNNERS,
    by_merging,
    by_pipeline,
    fault,
    read,
    run_method,
    setting,
)

BESIDE = {"prumerge_plus": ["prumerge"]}
"""What a runner loads beside the pipeline it runs."""

DATA = Path(__file__).parents[1] / "golden" / "data"


@pytest.mark.parametrize("name", sorted(RUNNERS))
def test_method(name):
    (method,) = read(DATA, [name])
    outcome = run_method(method)
    assert outcome.passed == len(method.cases) > 0, outcome.as_data()


def changed(folder, name, tensor, change):
    """A copy of one method's data with one tensor changed."""
    index = json.loads((DATA / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "methods": {name: index["methods"][name]}}))
    tensors = load_file(DATA / f"{name}.safetensors")
    tensors[tensor] = change(tensors[tensor]).contiguous()
    save_file(tensors, folder / f"{name}.safetensors")
    return run_method(read(folder)[0])


@pytest.mark.parametrize(
    "tensor, change, told",
    [
        ("expected.kept", lambda kept: kept + 1, "kept has"),
        ("expected.score", lambda score: 1.01 * score, "score differs in"),
        ("expected.keep_positions", lambda places: places.flip(0), "keep_positions differs"),
        ("expected.keep_positions", lambda places: places[:-1], "keep_positions has the shape"),
        ("input.attention_last_row", lambda row: row[:, :40], "signal TextAttention"),
        ("input.attention_last_row", lambda row: row[0], "could not be run: IndexError"),
    ],
)
def test_what_is_wrong_is_told_and_the_other_cases_go_on(tmp_path, tensor, change, told):
    outcome = changed(tmp_path, "fastv", f"case0.{tensor}", change)
    assert (outcome.passed, outcome.failed) == (5, 1)
    assert any(told in why for why in outcome.cases[0].faults)


def test_a_method_that_nothing_runs_has_failed(tmp_path):
    magic = {
        "file": "magic.safetensors",
        "expected": {"expected.kept": {"compare": "exact"}},
        "cases": [{"id": "case0"}],
    }
    index = {"format": "golden-data 1", "methods": {"magic": magic}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    save_file({"case0.expected.kept": torch.arange(3)}, tmp_path / "magic.safetensors")
    (outcome,) = map(run_method, read(tmp_path))
    assert (outcome.passed, outcome.failed) == (0, 1)
    assert "nothing here runs the method 'magic'" in outcome.cases[0].faults[0]


@pytest.mark.parametrize(
    "comparison, given, expected, same",
    [
        ("index_set", [3, 1], [1, 3], True),
        ("index_set", [1, 1, 3], [1, 3], False),
        ("index_set", [], [], True),
        ("index_set", [1], [1, 3], False),
        ("ordered", [3, 1], [1, 3], False),
        ("exact", [True, False], [1, 0], True),
        ("exact", [], [], True),
        ("values", [1.0001, 0.0], [1.0, 1e-5], True),
        ("values", [1.001, 0.0], [1.0, 0.0], False),
        ("values", [1.0, 1e-4], [1.0, 0.0], False),
        ("values", [float("nan")], [1.0], False),
        ("values", [[1.0]], [1.0], False),
    ],
)
def test_comparisons(comparison, given, expected, same):
    assert (fault(comparison, torch.tensor(given), torch.tensor(expected)) is None) == same


def broken_folders(folder):
    yield folder / "nowhere", "no folder"
    yield folder, "cannot be read"
    index = folder / "index.json"
    index.write_text("{")
    yield folder, "is no index of golden data"
    index.write_text('{"format": "golden-data 1", "methods": {"fastv": {"file": "fastv.safetensors"}}}')
    yield folder, "methods.fastv.expected"
    whole = json.loads((DATA / "index.json").read_text())["methods"]["fastv"]
    for change, told in (
        ({"file": "../fastv.safetensors"}, "not in this folder"),
        ({}, "fastv.safetensors: cannot be read"),
    ):
        index.write_text(json.dumps({"format": "golden-data 1", "methods": {"fastv": {**whole, **change}}}))
        yield folder, told
    tensors = load_file(DATA / "fastv.safetensors")
    save_file({**tensors, "case0.expected.magic": torch.ones(1)}, folder / "fastv.safetensors")
    yield folder, "does not say how case0.expected.magic is compared"
    save_file({"case0.expected.kept": torch.ones(1)}, folder / "fastv.safetensors")
    yield folder, "nothing that is expected of case1"


def test_broken_data_is_refused(tmp_path):
    for folder, told in broken_folders(tmp_path):
        with pytest.raises(pk.ConfigError, match=told):
            read(folder)


def test_an_unknown_method_is_named():
    with pytest.raises(pk.UnknownName, match="Did you mean 'fastv'"):
        read(DATA, ["fastvv"])


def test_every_case_is_of_the_pipeline_that_is_named(monkeypatch):
    """A runner loads that pipeline, and at most the one that its data is made with beside it."""
    loaded = []

    def noted(name):
        loaded.append(name)
        return pk.load(name)

    for module in (setting, by_merging):
        monkeypatch.setattr(module, "load", noted)
    for method in read(DATA):
        named_by = PIPELINES.get(method.name, "")
        for named, case in {named_by.format(**case.params): case for case in method.cases}.items():
            loaded.clear()
            RUNNERS[method.name](case)
            assert (named in loaded) == bool(named), method.name
            assert set(loaded) <= {named, *BESIDE.get(method.name, ())}, method.name


def test_outcomes_by_pipeline():
    outcomes = by_pipeline(read(DATA, ["attention_bias", "dart", "dart_exact", "pad_mask"]))
    assert {name: len(cases) for name, cases in outcomes.items()} == {
        "fastv-debiased": 3,
        "pyramiddrop-debiased": 2,
        "dart": 9,
    }
    assert all(case.passed for cases in outcomes.values() for case in cases)
