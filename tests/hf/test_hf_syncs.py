"""Decoding asks the device for nothing that it is not asked for without pruning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from choosing import every, top
from families import FAMILIES
from packaging.version import Version
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit import TextAttention
from prunekit.hf import Cut, attach
from prunekit.measuring import Counting

OLDER = Version(transformers.__version__) < Version("5.23")


def reads(model: Any, inputs: dict[str, Any], steps: int) -> int:
    with torch.no_grad(), Counting() as counted:
        model.generate(**inputs, max_new_tokens=steps, do_sample=False)
    return counted.syncs


PLACES = pytest.mark.parametrize("layers", [(2,), (0,), (0, 1, 2, 3, 4, 5)], ids=str)


def cuts(layers: tuple[int, ...]) -> list[Cut]:
    return [Cut(every(2 + number), layer) for number, layer in enumerate(layers)]


@PLACES
@pytest.mark.parametrize("positions", ["keep", "repack"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_more_reads_a_step_than_without(
    implementation: str, positions: Any, layers: tuple[int, ...]
) -> None:
    case = FAMILIES["llava"](implementation)
    plain = reads(case.model, case.inputs, 6) - reads(case.model, case.inputs, 2)
    with attach(case.model, *cuts(layers), positions=positions):
        pruned = reads(case.model, case.inputs, 6) - reads(case.model, case.inputs, 2)
    assert pruned == plain


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(OLDER, reason="this release of transformers does otherwise")
@PLACES
def test_each_place_adds_a_few_operations_to_a_step(layers: tuple[int, ...]) -> None:
    """However many layers are behind it: masks and positions are made once for all of them."""
    case = FAMILIES["llava"]("sdpa")

    def step() -> int:
        counts: list[int] = []
        for steps in (2, 3):
            with torch.no_grad(), Operations() as counted:
                case.model.generate(**case.inputs, max_new_tokens=steps, do_sample=False)
            counts.append(counted.count)
        return counts[1] - counts[0]

    plain = step()
    with attach(case.model, *cuts(layers), positions="repack"):
        assert step() - plain <= 40 * len(layers)


def test_the_prompt_costs_a_handful_of_reads_whatever_the_depth() -> None:
    case = FAMILIES["llava"]("sdpa")
    need = TextAttention()
    plain = reads(case.model, case.inputs, 1)
    counts = []
    for layer in (1, 5):
        with attach(case.model, Cut(top(0.3, need), layer=layer, needs=[need])):
            counts.append(reads(case.model, case.inputs, 1) - plain)
    assert counts[0] == counts[1] <= 8
