"""The report adds up."""

from __future__ import annotations

import json

import pytest
import torch
from choosing import every, keep_all
from families import LAYERS, llava

from prunekit import PrunekitError, TextAttention
from prunekit.hf import Cut, attach
from prunekit.hf import pruning as pruning_module


def test_the_report_of_a_batch() -> None:
    case = llava("sdpa", [[16, 16], [], [16]])
    with torch.no_grad(), attach(case.model, Cut(every(4), layer=2, needs=[TextAttention()])) as pruning:
        with pytest.raises(PrunekitError, match="Nothing to report"):
            pruning.report()
        case.model.generate(**case.inputs, max_new_tokens=3)
    report = pruning.report()
    assert (report.cuts, report.layers, report.attention, report.prompts) == ((2,), LAYERS, "sdpa", 1)
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
    with torch.no_grad(), attach(two.model, Cut(every(2), layer=2)) as pruning:
        two.model(**two.inputs)
        two.model(**one.inputs)
    assert pruning.report().prompts == 2
    assert pruning.report().visual_before == (16,)
    assert [tuple(selection.kept.shape) for selection in pruning.selections] == [(2, 16), (1, 16)]


def test_keep_all_saves_nothing() -> None:
    case = llava("eager")
    with torch.no_grad(), attach(case.model, Cut(keep_all, layer=2)) as pruning:
        case.model(**case.inputs)
    report = pruning.report()
    assert {saving.percent for saving in report.flops.values()} == {0}
    assert report.cache_bytes.percent == 0


def test_only_the_newest_selections_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_module, "HISTORY", 2)
    case = llava("sdpa", [[16]])
    with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)) as pruning:
        for _ in range(3):
            case.model(**case.inputs)
    assert len(pruning.selections) == 2
    assert pruning.report().prompts == 3
