"""`prunekit bench prefill` measures a model with and without pruning, and what it prints fits together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import Prunekit, Result

import prunekit as pk
from prunekit import hf
from prunekit.bench.prefill import Effort, measured
from prunekit.bench.prompts import prompt_of
from prunekit.hf.flops import cache_bytes, flops
from prunekit.hf.looking import seen_once
from prunekit.hf.shape import Shape
from prunekit.schedule import Schedule

QUICK = ("--model", "testbed", "--new-tokens", 2, "--runs", 1)
PROMISED = {
    "model", "pipeline", "tokens", "kept", "prefill_ms", "prefill_unpruned_ms", "select_ms", "decode_ms",
    "measured_speedup", "predicted_speedup", "peak_mb", "kv_mb",
}  # fmt: skip


def rows(result: Result) -> list[dict]:
    assert result.code == 0, result.err
    return json.loads(result.out)["rows"]


def test_rows_for_machines(prunekit: Prunekit):
    result = prunekit(
        "bench", "prefill", *QUICK, "--tokens", 144, "--tokens", 288, "--budget", "0.1", "--json"
    )
    asked = [(row["tokens"], row["pipeline"]) for row in rows(result)]
    names = ["keep-all", "fastv", "d2pruner", "random", "uniform_grid"]
    assert asked == [(size, name) for size in (144, 288) for name in names]
    shape = Shape.read(hf.load("testbed").model.get_decoder())
    for row in rows(result):
        assert set(row) >= PROMISED
        tokens, kept, text = row["tokens"], row["kept"], row["text"]
        assert kept == (tokens if row["pipeline"] == "keep-all" else tokens // 10)
        assert (row["model"], row["device"], row["dtype"], row["runs"]) == ("testbed", "cpu", "float32", 1)
        assert text == 64
        whole, pruned = (tokens,) * 6, Schedule((2,), (kept,)).tokens(tokens, 6)
        operations = [flops(shape, text, each, "exact") for each in (whole, pruned)]
        assert row["predicted_speedup"] == pytest.approx(operations[0] / operations[1])
        assert row["measured_speedup"] == pytest.approx(row["prefill_unpruned_ms"] / row["prefill_ms"])
        assert row["kv_unpruned_mb"] == pytest.approx(cache_bytes(shape, text, whole) / 1e6)
        assert row["kv_mb"] == pytest.approx(cache_bytes(shape, text, pruned) / 1e6)
        assert 0 < row["select_ms"] < row["prefill_ms"]
        assert min(row["decode_ms"], row["decode_unpruned_ms"], row["vision_ms"]) > 0
        if kept < tokens:
            assert row["peak_mb"] < row["peak_unpruned_mb"]
    assert json.loads(result.out)["environment"]["threads"] == 1


def test_keeping_everything_takes_no_memory_but_a_few_rows(prunekit: Prunekit):
    """Queries, keys and one row of attention a head, and what is noted of each token; nothing squared."""
    result = prunekit("bench", "prefill", *QUICK, "--tokens", 288, "--pipeline", "fastv", "--json")
    keep_all = rows(result)[0]
    assert keep_all["pipeline"] == "keep-all"
    more = 1e6 * (keep_all["peak_mb"] - keep_all["peak_unpruned_mb"])
    assert more <= 64 * (keep_all["tokens"] + keep_all["text"])


def test_every_combination_is_a_row_and_baselines_are_beside(prunekit: Prunekit):
    result = prunekit(
        "bench", "prefill", *QUICK, "--tokens", 144, "--pipeline", "random", "--budget", 9, "--budget", "0.5",
        "--json",
    )  # fmt: skip
    asked = [(row["pipeline"], row["kept"]) for row in rows(result)]
    assert asked == [
        ("keep-all", 144), ("random", 9), ("uniform_grid", 9), ("random", 72), ("uniform_grid", 72)
    ]  # fmt: skip


def test_a_pipeline_keeps_what_it_says_where_nothing_else_is_said(prunekit: Prunekit):
    result = prunekit("bench", "prefill", *QUICK, "--tokens", 144, "--pipeline", "fastv", "--json")
    assert {row["pipeline"]: row["kept"] for row in rows(result)} == {
        "keep-all": 144, "fastv": 72, "random": 14, "uniform_grid": 14
    }  # fmt: skip


def test_a_prior_that_is_missing_is_made_up_and_called_so(prunekit: Prunekit, tmp_path: Path):
    folder = tmp_path / "no-prior"
    loaded = hf.load("testbed")
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    given = ("bench", "prefill", "--model", folder, *QUICK[2:], "--tokens", 144, "--pipeline", "d2pruner")
    assert rows(prunekit(*given, "--json"))[1]["pipeline"] == "d2pruner (made-up prior)"
    told = prunekit(*given)
    assert "d2pruner (made-up prior)" in told.out
    assert "an invented one" in told.err


def test_a_table_for_people(prunekit: Prunekit):
    result = prunekit("bench", "prefill", *QUICK, "--tokens", 144)
    assert result.code == 0
    for word in ("unpruned", "keep-all", "uniform_grid", "predicted", "144 visual and 64 other tokens"):
        assert word in result.out
    assert "…" not in result.out
    assert "without vision tower" in result.err.replace("\n", " ")


def test_nothing_is_left_on_the_model():
    loaded = hf.load("testbed")
    inputs = prompt_of(loaded, 144, 16)
    loaded.model.generate(**inputs, max_new_tokens=1)
    before = [(set(vars(module)), len(module._forward_hooks)) for module in loaded.model.modules()]
    measured(loaded, [pk.load("fastv")], 144, Effort(new_tokens=1, runs=1))
    after = [(set(vars(module)), len(module._forward_hooks)) for module in loaded.model.modules()]
    assert before == after
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_pictures_are_looked_at_once():
    loaded = hf.load("testbed")
    inputs, looks = prompt_of(loaded, 144, 16), []
    tower = loaded.model.model.vision_tower
    hook = tower.register_forward_hook(lambda *_: looks.append(1))
    try:
        with torch.inference_mode():
            fresh = loaded.model.generate(**inputs, max_new_tokens=3)
            with seen_once(loaded.model) as sight:
                sight.look(inputs)
                looks.clear()
                again = [loaded.model.generate(**inputs, max_new_tokens=3) for _ in range(2)]
                assert not looks
                assert sight.again_ms() > 0
                assert looks == [1]
            loaded.model.generate(**inputs, max_new_tokens=3)
    finally:
        hook.remove()
    assert looks == [1, 1]
    assert all(torch.equal(fresh, each) for each in again)


@pytest.mark.parametrize("visual", [1, 144, 300, 500])
def test_prompts_come_near(visual: int):
    loaded = hf.load("testbed")
    ids = prompt_of(loaded, visual, 64)["input_ids"]
    count = int((ids == loaded.model.config.image_token_id).sum())
    assert count == 144 * max(round(visual / 144), 1)
    assert ids.shape == (1, count + 64)


MISTAKES = {
    "no such pipeline": (["--pipeline", "fastw"], "fastv"),
    "no such device": (["--device", "gpu"], "--device gpu"),
    "no such precision": (["--dtype", "float8"], "float8"),
    "no budget": (["--budget", "0"], "budget"),
    "no such random model": (["--model", "random-llava-smal"], "Did you mean 'random-llava-small'?"),
    "no such folder": (["--model", "./nowhere"], "no folder"),
}


@pytest.mark.parametrize(("extra", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_a_paragraph(prunekit: Prunekit, extra: list[str], told: str):
    result = prunekit("bench", "prefill", *QUICK[2:], "--tokens", 144, *extra)
    assert result.code == 2
    assert told in result.err.replace("\n", " ")
    assert "Traceback" not in result.err
    assert result.out == ""
