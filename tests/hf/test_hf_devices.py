"""A model whose layers lie on two devices, as `device_map` splits it: nothing meets where it should not.

The devices are only names: see `devices`. It does not see into the masks of models that make them by `vmap`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import top
from devices import FIRST, SECOND, Devices, moved, place, split
from families import FAMILIES
from torch import Tensor

from prunekit import TextAttention
from prunekit.hf import Cut, attach

LAST, SAME = TextAttention(), TextAttention(layer="same")
ONE_LINE = ["llava", "internvl"]


def answer(model: Any, inputs: dict[str, Any], layers: tuple[int, ...], positions: Any) -> Tensor:
    cuts = [Cut(top(0.5, SAME), layer, [SAME, LAST] if layer else [SAME]) for layer in layers]
    with torch.no_grad(), attach(model, *cuts, positions=positions):
        out = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(out.logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("layers", "second"), [((2,), 3), ((3,), 3), ((3,), 2), ((0, 4), 3), ((0, 2), 2), ((1, 3), 2)], ids=str
)
@pytest.mark.parametrize(
    ("family", "positions"),
    [(family, "keep") for family in (*ONE_LINE, "qwen2_5_vl", "qwen3_vl")]
    + [(family, "repack") for family in ONE_LINE],
)
def test_split_over_two_devices(
    family: str, positions: Any, layers: tuple[int, ...], second: int, implementation: str
) -> None:
    case = FAMILIES[family](implementation)
    expected = answer(case.model, case.inputs, layers, positions)
    with split(case.model, second):
        logits = answer(case.model, moved(case.inputs, FIRST), layers, positions)
    assert place(logits) == FIRST
    assert torch.equal(logits, expected)


def test_tensors_that_meet_are_noticed() -> None:
    with Devices():
        one, two = moved(torch.ones(2), FIRST), moved(torch.ones(2), SECOND)
        assert (one + one.new_ones(2)).device == FIRST
        assert (one.to(SECOND) + two.to(two)).device == SECOND
        assert one[torch.tensor([1])].device == FIRST
        with pytest.raises(RuntimeError, match="tensors meet"):
            one + two
