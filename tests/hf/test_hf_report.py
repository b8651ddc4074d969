"""The report adds up, and its formulas are the published ones."""

from __future__ import annotations

import json

import pytest
import torch
from choosing import every, keep_all
from families import LAYERS, llava

from prunekit import PrunekitError, TextAttention
from prunekit.hf import Saving, attach
from prunekit.hf import pruning as pruning_module
from prunekit.hf.flops import Prompt, Shape, cache_bytes, flops

LLAVA_7B = Shape(layers=32, width=4096, query_width=4096, key_width=4096, mlp_width=11008, bytes=2)
QWEN_7B = Shape(layers=28, width=3584, query_width=3584, key_width=512, mlp_width=18944, bytes=2)


def saved(shape: Shape, layer: int, prompt: Prompt, convention: str) -> float:
    return Saving(*flops(shape, layer, prompt, convention)).percent  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("convention", "text", "kept", "percent"),
    [
        ("fastv-visual", 0, 192, 63.1),
        ("fastv-visual", 500, 192, 63.1),
        ("fastv-visual", 0, 128, 73.4),
        ("fastv-visual", 0, 64, 83.6),
        ("fastv", 75, 64, 74.2),
        ("exact", 64, 192, 56.5),
        ("exact", 64, 128, 65.9),
        ("exact", 64, 64, 75.2),
    ],
)
def test_llava_at_layer_2(convention: str, text: int, kept: int, percent: float) -> None:
    assert saved(LLAVA_7B, 2, Prompt(text, 576, kept), convention) == pytest.approx(percent, abs=0.1)


def test_grouped_queries_count_what_they_cost() -> None:
    before, _ = flops(QWEN_7B, 2, Prompt(64, 1296, 324), "exact")
    assert before == pytest.approx(18.1e12, rel=0.005)
    assert saved(QWEN_7B, 2, Prompt(64, 1296, 324), "exact") == pytest.approx(66.8, abs=0.1)
    assert cache_bytes(QWEN_7B, 2, Prompt(64, 1296, 324))[0] == pytest.approx(74 * 2**20, rel=0.01)


def test_cache_bytes() -> None:
    before, after = cache_bytes(LLAVA_7B, 2, Prompt(64, 576, 64))
    assert before == 320 * 2**20
    assert after == before * (2 * 640 + 30 * 128) // (32 * 640)


def test_fastv_published_costs() -> None:
    """FastV's table 1 for LLaVA-1.5-7B at K = 2: 99.3, 54.6, 32.8, 19.9 GFLOPs a layer on average."""
    for kept, giga in ((576, 99.3), (288, 54.6), (144, 32.8), (58, 19.9)):
        before, after = flops(LLAVA_7B, 2, Prompt(35, 576, kept), "fastv")
        assert (before if kept == 576 else after) / 32 / 1e9 == pytest.approx(giga, abs=0.2)


def test_the_report_of_a_batch() -> None:
    case = llava("sdpa", [[16, 16], [], [16]])
    with torch.no_grad(), attach(case.model, every(4), layer=2, needs=[TextAttention()]) as pruning:
        with pytest.raises(PrunekitError, match="Nothing to report"):
            pruning.report()
        case.model.generate(**case.inputs, max_new_tokens=3)
    report = pruning.report()
    assert (report.layer, report.layers, report.attention, report.prompts) == (2, LAYERS, "sdpa", 1)
    assert report.visual_before == (32, 0, 16)
    assert report.visual_after == (8, 0, 4)
    assert [t + v for t, v in zip(report.text, report.visual_before, strict=True)] == (
        case.inputs["attention_mask"].sum(1).tolist()
    )
    assert set(report.flops) == {"exact", "fastv", "fastv-visual"}
    assert report.flops["fastv-visual"].percent > report.flops["exact"].percent > 0
    assert 0 < report.select_ms < report.prefill_ms

    lengths = [sum(report.text) + 48, sum(report.text) + 12]
    token = 2 * 2 * 16 * 4
    assert report.cache_bytes.before == LAYERS * lengths[0] * token
    assert report.cache_bytes.after == (2 * lengths[0] + 4 * lengths[1]) * token

    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["visual_after"] == [8, 0, 4]
    assert plain["flops"]["exact"]["percent"] == pytest.approx(report.flops["exact"].percent)
    shown = str(report)
    assert "layer 2 of 6, sdpa attention" in shown
    assert "48 → 12 (32 → 8, 0 → 0, 16 → 4)" in shown
    assert "FLOPs (exact)" in shown


def test_the_report_is_of_the_newest_prompt() -> None:
    two, one = llava("sdpa", [[16], [16]]), llava("sdpa", [[16]])
    with torch.no_grad(), attach(two.model, every(2), layer=2) as pruning:
        two.model(**two.inputs)
        two.model(**one.inputs)
    assert pruning.report().prompts == 2
    assert pruning.report().visual_before == (16,)
    assert [tuple(selection.kept.shape) for selection in pruning.selections] == [(2, 16), (1, 16)]


def test_keep_all_saves_nothing() -> None:
    case = llava("eager")
    with torch.no_grad(), attach(case.model, keep_all, layer=2) as pruning:
        case.model(**case.inputs)
    report = pruning.report()
    assert {saving.percent for saving in report.flops.values()} == {0}
    assert report.cache_bytes.percent == 0


def test_only_the_newest_selections_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_module, "HISTORY", 2)
    case = llava("sdpa", [[16]])
    with torch.no_grad(), attach(case.model, every(2), layer=2) as pruning:
        for _ in range(3):
            case.model(**case.inputs)
    assert len(pruning.selections) == 2
    assert pruning.report().prompts == 3
