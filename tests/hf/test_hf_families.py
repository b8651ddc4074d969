"""Every family: keep-all changes nothing, pruning is masking, and captured attention is the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import keep_all, top
from families import FAMILIES, LAYERS, Case
from masked import dropped_columns, eager_twin, masked
from torch import Tensor

from prunekit import TextAttention
from prunekit.hf import Cut, attach

GREEDY = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
LAST, SAME = TextAttention(), TextAttention(layer="same")
WHERE = [(name, 2) for name in FAMILIES] + [
    (name, layer) for name in ("llava", "gemma3", "qwen3_vl") for layer in (1, 4)
]


def generated(model: Any, inputs: dict[str, Any], **more: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = model.generate(**inputs, **{**GREEDY, **more})
    return out.sequences, torch.stack(out.logits)


def same_without_cache(case: Case, plain: tuple[Tensor, Tensor]) -> bool:
    """Whether the family itself gives the same without a cache; in older releases not all do."""
    again = generated(case.model, case.inputs, use_cache=False)
    return torch.equal(again[0], plain[0]) and torch.allclose(again[1], plain[1], atol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "layer"), WHERE)
def test_keep_all_is_bit_identical_and_pruning_is_masking(
    family: str, layer: int, implementation: str
) -> None:
    case = FAMILIES[family](implementation)
    plain = generated(case.model, case.inputs)
    with attach(case.model, Cut(keep_all, layer=layer, needs=[LAST, SAME])):
        kept = generated(case.model, case.inputs)
    assert torch.equal(plain[0], kept[0])
    assert torch.equal(plain[1], kept[1])

    with attach(case.model, Cut(top(0.3, LAST), layer=layer, needs=[LAST])) as pruning:
        pruned = generated(case.model, case.inputs)
    dropped = dropped_columns(case.inputs["input_ids"], pruning.selections[0].kept)
    assert dropped.any()
    with masked(case.model, dropped, layer) as reference:
        expected = generated(reference, case.inputs, use_cache=not same_without_cache(case, plain))
    assert torch.equal(pruned[0], expected[0])
    torch.testing.assert_close(pruned[1], expected[1], atol=1e-4, rtol=1e-4)
    assert (pruned[1] - plain[1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 2, LAYERS - 1])
def test_captured_attention_is_the_models_own(family: str, layer: int) -> None:
    case = FAMILIES[family]("sdpa")
    needs = [TextAttention(query=q, layer=w) for q in ("last", "mean") for w in ("previous", "same")]
    seen: dict[TextAttention, Tensor] = {}

    def look(tokens: Any) -> Any:
        seen.update(tokens.signals)
        return keep_all(tokens)

    with torch.no_grad(), attach(case.model, Cut(look, layer=layer, needs=needs)):
        case.model(**case.inputs)
    with torch.no_grad():
        attentions = eager_twin(case.model)(**case.inputs, output_attentions=True).attentions
    for signal in needs:
        whole = attentions[layer - 1 if signal.layer == "previous" else layer]
        for row, visual in enumerate(case.visual):
            columns = visual.nonzero()[:, 0]
            first = -1 if signal.query == "last" else int(columns[-1]) + 1
            expected = whole[row][:, first:, columns].mean(1)
            torch.testing.assert_close(seen[signal][row, :, : len(columns)], expected, atol=1e-6, rtol=1e-4)
            assert not seen[signal][row, :, len(columns) :].any()
