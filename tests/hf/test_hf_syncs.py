"""Decoding asks the device for nothing that it is not asked for without pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import every, top
from families import FAMILIES

from prunekit import TextAttention
from prunekit.hf import Cut, attach
from prunekit.measuring import Counting


def reads(model: Any, inputs: dict[str, Any], steps: int) -> int:
    with torch.no_grad(), Counting() as counted:
        model.generate(**inputs, max_new_tokens=steps, do_sample=False)
    return counted.syncs


@pytest.mark.parametrize("positions", ["keep", "repack"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_more_reads_a_step_than_without(implementation: str, positions: Any) -> None:
    case = FAMILIES["llava"](implementation)
    plain = reads(case.model, case.inputs, 6) - reads(case.model, case.inputs, 2)
    with attach(case.model, Cut(every(3), layer=2), positions=positions):
        pruned = reads(case.model, case.inputs, 6) - reads(case.model, case.inputs, 2)
    assert pruned == plain


def test_the_prompt_costs_a_handful_of_reads_whatever_the_depth() -> None:
    case = FAMILIES["llava"]("sdpa")
    need = TextAttention()
    plain = reads(case.model, case.inputs, 1)
    counts = []
    for layer in (1, 5):
        with attach(case.model, Cut(top(0.3, need), layer=layer, needs=[need])):
            counts.append(reads(case.model, case.inputs, 1) - plain)
    assert counts[0] == counts[1] <= 8
