"""The flash kernels' contract, kept on a CPU: padding masks only, causality counted from the end.

A stand-in is registered under a name of its own. It gets what flash attention gets and computes it slowly.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import keep_all, top
from families import Case, llava
from masked import dropped_columns, masked
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from prunekit import TextAttention
from prunekit.hf import Cut, attach

NAME = "flash_stand_in"


def _stand_in(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    assert module.config._attn_implementation == NAME
    assert mask is None or mask.ndim == 2
    queries, keys = query.shape[-2], key.shape[-2]
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
    if mask is not None:
        assert mask.shape[1] == keys
        seen = seen & mask[:, None, None, :].bool()
    share = query.shape[1] // key.shape[1]
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(share, 1),
        value.repeat_interleave(share, 1),
        attn_mask=seen | ~seen.any(-1, keepdim=True),
        scale=settings["scaling"],
    )
    return out.transpose(1, 2), None


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, _stand_in)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, NAME, flash_attention_mask)


def flash(rows: list[list[int]]) -> Case:
    case = llava("sdpa", rows)
    case.model.get_decoder().config._attn_implementation_internal = NAME
    return case


BATCHES = [[[16]], [[16], [16]], [[16, 16], [16]], [[16], [], [16]]]
MASKED = [(rows, False) for rows in BATCHES] + [(rows, True) for rows in BATCHES[:2]]


@pytest.mark.parametrize(("rows", "bare"), MASKED)
@pytest.mark.parametrize("where", ["previous", "same"])
@pytest.mark.parametrize("query", ["last", "mean"])
def test_flash_attention_prunes_alike(rows: list[list[int]], bare: bool, where: Any, query: Any) -> None:
    case = flash(rows)
    inputs = dict(case.inputs)
    if bare:
        shortest = min(int(row.sum()) for row in inputs.pop("attention_mask"))
        inputs["input_ids"] = inputs["input_ids"][:, -shortest:]
    need = TextAttention(query=query, layer=where)
    settings = {
        "max_new_tokens": 5,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    scores: dict[str, Tensor] = {}

    def look(tokens: Any) -> Any:
        scores[case.model.get_decoder().config._attn_implementation] = tokens.signals[need]
        return top(0.3, need)(tokens)

    with torch.no_grad():
        plain = case.model.generate(**inputs, **settings)
        with attach(case.model, Cut(keep_all, layer=2, needs=[need])):
            kept = case.model.generate(**inputs, **settings)
        with attach(case.model, Cut(look, layer=2, needs=[need])) as pruning:
            pruned = case.model.generate(**inputs, **settings)
        assert torch.equal(torch.stack(plain.logits), torch.stack(kept.logits))
        dropped = dropped_columns(inputs["input_ids"], pruning.selections[0].kept)
        with masked(case.model, dropped, 2) as reference:
            expected = reference.generate(**inputs, **settings, use_cache=False)
        case.model.set_attn_implementation("sdpa")
        with attach(case.model, Cut(look, layer=2, needs=[need])):
            case.model(**inputs)
    assert torch.equal(pruned.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(pruned.logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[NAME], scores["sdpa"], atol=1e-6, rtol=1e-4)
