"""`prunekit doctor` says how a model would be pruned, and ends with what came of trying."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from commands import Prunekit

from prunekit.testbed import CHECKPOINT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    shutil.copytree(CHECKPOINT, place)
    return place


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_testbed_is_healthy(prunekit: Prunekit):
    result = prunekit("doctor")
    assert result.code == 0, result.err
    for word in ("LlamaModel", "1 of 12 × 12", "✓", "keep-all", "bit-identical", "testbed can be pruned"):
        assert word in result.out


def test_a_diagnosis_for_machines(prunekit: Prunekit, folder: Path, photograph: Path):
    result = prunekit("doctor", "--model", folder, "--layer", 3, "--image", photograph, "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert told["healthy"] is True
    assert set(told) == {"model", "checks", "anatomy", "layout", "cache", "healthy"}
    assert (told["model"], told["anatomy"]["layers"], told["layout"]["tokens"]) == (str(folder), 6, 144)
    assert {"layer 3, keep-all", "positions: repack", "layer 0"} <= {each["name"] for each in told["checks"]}
    assert all(each["ok"] for each in told["checks"] if each["needed"])


@pytest.mark.parametrize("layer", [6, 99])
def test_a_layer_that_is_not_there(prunekit: Prunekit, layer: int):
    result = prunekit("doctor", "--layer", layer)
    assert result.code == 1
    assert f"cannot be pruned at layer {layer}" in result.out
    assert "the language model has 6 layers" in " ".join(result.out.split())


def test_a_model_that_generates_with_a_static_cache(prunekit: Prunekit, folder: Path):
    changed(folder / "generation_config.json", cache_implementation="static")
    result = prunekit("doctor", "--model", folder, "--json")
    assert result.code == 1
    told = json.loads(result.out)
    assert told["healthy"] is False
    assert told["checks"][-1]["name"] == "layer 2, keep-all, answers"
    assert "DynamicCache" in told["checks"][-1]["why"]


def test_a_model_without_eyes(prunekit: Prunekit, tmp_path: Path):
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    config.save_pretrained(tmp_path)
    result = prunekit("doctor", "--model", tmp_path)
    assert result.code == 1
    assert "✗" in result.out
    assert "no vision-language model" in " ".join(result.out.split())


MISTAKES = {
    "no such model": (["--model", "./nowhere"], "no folder"),
    "no such random model": (["--model", "random-lava"], "random-llava-small"),
    "no such image": (["--image", "nowhere.png"], "nowhere.png"),
}


@pytest.mark.parametrize(("extra", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_a_paragraph(prunekit: Prunekit, extra: list[str], told: str):
    result = prunekit("doctor", *extra)
    assert result.code == 2
    assert told in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
