"""Decoding asks the device for nothing that it is not asked for without pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import every, top
from families import FAMILIES
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit import TextAttention
from prunekit.hf import attach

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)


class Reads(TorchDispatchMode):
    """Counts how often a tensor's value is read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        self.count += function in READS
        return function(*given, **(named or {}))


def reads(model: Any, inputs: dict[str, Any], steps: int) -> int:
    with torch.no_grad(), Reads() as mode:
        model.generate(**inputs, max_new_tokens=steps, do_sample=False)
    return mode.count


@pytest.mark.parametrize("positions", ["keep", "repack"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_more_reads_a_step_than_without(implementation: str, positions: Any) -> None:
    case = FAMILIES["llava"](implementation)
    plain = reads(case.model, case.inputs, 6) - reads(case.model, case.inputs, 2)
    with attach(case.model, every(3), layer=2, positions=positions):
        pruned = reads(case.model, case.inputs, 6) - reads(case.model, case.inputs, 2)
    assert pruned == plain


def test_the_prompt_costs_a_handful_of_reads_whatever_the_depth() -> None:
    case = FAMILIES["llava"]("sdpa")
    need = TextAttention()
    plain = reads(case.model, case.inputs, 1)
    counts = []
    for layer in (1, 5):
        with attach(case.model, top(0.3, need), layer=layer, needs=[need]):
            counts.append(reads(case.model, case.inputs, 1) - plain)
    assert counts[0] == counts[1] <= 6
