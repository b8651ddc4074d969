"""Positions closed up after dropping: what a model would see that never had the dropped tokens there."""

from __future__ import annotations

from typing import Any

import torch
from choosing import every
from families import llava
from masked import dropped_columns, masked
from torch import Tensor

from prunekit.hf import Cut, attach


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
