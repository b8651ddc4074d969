"""Every family: captured attention is the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choosing import keep_all
from families import FAMILIES, LAYERS
from masked import eager_twin
from torch import Tensor

from prunekit import TextAttention
from prunekit.hf import Cut, attach


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
