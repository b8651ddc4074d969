"""Positions closed up after dropping: what a model would see that never had the dropped tokens there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import every, keep_all, top
from families import FAMILIES, llava
from masked import dropped_columns, masked
from torch import Tensor

from prunekit import TextAttention
from prunekit.hf import Cut, attach

LAST = TextAttention()
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
ONE_LINE = [name for name in FAMILIES if name not in ("qwen2_5_vl", "qwen3_vl")]


def answer(model: Any, inputs: dict[str, Any], **more: Any) -> tuple[Tensor, Tensor]:
    settings = {"max_new_tokens": 6, "do_sample": False, **more}
    with torch.no_grad():
        out = model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **settings)
    return out.sequences, torch.stack(out.logits)


@IMPLEMENTATIONS
@pytest.mark.parametrize("family", ONE_LINE)
def test_closing_up_is_masking_with_closed_up_positions(family: str, implementation: str) -> None:
    case = FAMILIES[family](implementation)
    kept_positions = answer(case.model, case.inputs)
    with attach(case.model, Cut(keep_all, layer=2), positions="repack"):
        kept = answer(case.model, case.inputs)
    assert torch.equal(kept[1], kept_positions[1])
    with attach(case.model, Cut(top(0.3, LAST), layer=2, needs=[LAST]), positions="repack") as pruning:
        pruned = answer(case.model, case.inputs)
    dropped = dropped_columns(case.inputs["input_ids"], pruning.selections[0].kept)
    if not torch.equal(answer(case.model, case.inputs, use_cache=False)[0], kept_positions[0]):
        pytest.skip("this release of transformers gives something else without a cache")
    with masked(case.model, dropped, 2, repack=True) as reference:
        expected = answer(reference, case.inputs, use_cache=False)
    assert torch.equal(pruned[0], expected[0])
    torch.testing.assert_close(pruned[1], expected[1], atol=1e-4, rtol=1e-4)
    with masked(case.model, dropped, 2) as reference:
        assert (answer(reference, case.inputs, use_cache=False)[1] - pruned[1]).abs().max() > 1e-2


def _positions_seen(model: Any, run: Any) -> list[Tensor]:
    seen: list[Tensor] = []

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        seen.append(named["position_ids"])

    handle = model.get_decoder().layers[4].register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        run()
    handle.remove()
    return seen


def test_kept_tokens_are_numbered_from_zero_and_decoding_goes_on_from_there() -> None:
    case = llava("sdpa", [[16, 16], [16]])
    with attach(case.model, Cut(every(4), layer=2), positions="repack"):
        prompt, *steps = _positions_seen(
            case.model, lambda: case.model.generate(**case.inputs, max_new_tokens=3, do_sample=False)
        )
    lengths = (case.inputs["attention_mask"].sum(1) - torch.tensor([24, 12])).tolist()
    assert prompt.shape[1] == max(lengths)
    for row, length in enumerate(lengths):
        assert prompt[row, -length:].tolist() == list(range(length))
        assert [step[row].tolist() for step in steps] == [[length], [length + 1]]


def test_positions_are_kept_otherwise() -> None:
    case = llava("sdpa", [[16, 16], [16]])
    with attach(case.model, Cut(every(4), layer=2)):
        prompt, *steps = _positions_seen(
            case.model, lambda: case.model.generate(**case.inputs, max_new_tokens=3, do_sample=False)
        )
    lengths = case.inputs["attention_mask"].sum(1)
    assert prompt[:, -1].tolist() == (lengths - 1).tolist()
    assert steps[0][:, 0].tolist() == lengths.tolist()


def test_a_second_turn_goes_on_behind_the_first() -> None:
    case = llava("sdpa", [[16, 16], [16]])
    with torch.no_grad(), attach(case.model, Cut(every(4), layer=2), positions="repack"):
        first = case.model.generate(
            **case.inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True
        )
        ids = torch.cat([first.sequences, torch.tensor([[31, 32], [33, 34]])], 1)
        mask = torch.ones_like(ids)
        mask[:, : case.inputs["input_ids"].shape[1]] = case.inputs["attention_mask"]
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": first.past_key_values}
        turn, *_ = _positions_seen(
            case.model, lambda: case.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        )
    start = mask.sum(1) - torch.tensor([24, 12]) - turn.shape[1]
    assert torch.equal(turn, start[:, None] + torch.arange(turn.shape[1]))


def test_a_forward_without_position_ids() -> None:
    """The model counts padding as positions then; what follows a dropped token still moves back by one."""
    case = llava("sdpa", [[16, 16], [16]])
    with torch.no_grad(), attach(case.model, Cut(every(4), layer=2), positions="repack") as pruning:
        pruned = case.model(**case.inputs).logits
    dropped = dropped_columns(case.inputs["input_ids"], pruning.selections[0].kept)
    with masked(case.model, dropped, 2, repack=True) as reference, torch.no_grad():
        expected = reference(**case.inputs, use_cache=False).logits
    told = case.inputs["attention_mask"].bool() & ~dropped
    torch.testing.assert_close(pruned[told], expected[told], atol=1e-4, rtol=1e-4)
