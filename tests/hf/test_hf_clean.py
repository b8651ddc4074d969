"""Whatever happens inside a block, nothing is left on the model after it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from choosing import every, keep_all
from families import FAMILIES, LAYERS, Case, llava
from leftovers import marks

from prunekit import PrunekitError, TextAttention, TokenBatch, UnsupportedModel
from prunekit.hf import Cut, attach

NEEDS = [TextAttention(), TextAttention(query="mean", layer="same")]


def warm(family: Callable[[str], Case]) -> Case:
    """A model that has run before: transformers puts hooks of its own on at the first pass."""
    case = family("sdpa")
    with torch.no_grad():
        case.model(**case.inputs)
    return case


def raising(tokens: TokenBatch) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_after_a_block(family: str) -> None:
    case = warm(FAMILIES[family])
    with torch.no_grad():
        before = case.model(**case.inputs).logits
        untouched = marks(case.model)
        with attach(case.model, Cut(every(2), layer=1, needs=NEEDS)):
            assert marks(case.model) != untouched
            case.model.generate(**case.inputs, max_new_tokens=2)
        assert _but_rope(marks(case.model)) == _but_rope(untouched)
        assert torch.equal(case.model(**case.inputs).logits, before)


def _but_rope(found: list[Any]) -> list[Any]:
    """Qwen-VL's generate leaves the offset of its positions on the model; that is its own business."""
    return [
        (name, {key: value for key, value in own.items() if key != "rope_deltas"}, hooks, config)
        for name, own, hooks, config in found
    ]


def _error_inside(model: Any, inputs: dict[str, Any]) -> None:
    with attach(model, Cut(every(2), layer=2, needs=NEEDS)):
        model(**inputs)
        raise ZeroDivisionError


def _error_in_the_stage(model: Any, inputs: dict[str, Any]) -> None:
    with attach(model, Cut(raising, layer=2, needs=NEEDS)):
        model.generate(**inputs, max_new_tokens=2)


def _error_in_a_layer(model: Any, inputs: dict[str, Any]) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    handle = model.get_decoder().layers[4].register_forward_pre_hook(fail)
    try:
        with attach(model, Cut(every(2), layer=2, needs=NEEDS)):
            model(**inputs)
    finally:
        handle.remove()


def _error_in_the_probe(model: Any, inputs: dict[str, Any]) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    handle = model.get_decoder().layers[2].input_layernorm.register_forward_pre_hook(fail)
    try:
        with attach(model, Cut(every(2), layer=2, needs=NEEDS)):
            model(**inputs)
    finally:
        handle.remove()


@pytest.mark.parametrize("fail", [_error_inside, _error_in_the_stage, _error_in_a_layer, _error_in_the_probe])
def test_nothing_is_left_after_an_error(fail: Callable[[Any, dict[str, Any]], None]) -> None:
    case = warm(llava)
    with torch.no_grad():
        before = case.model(**case.inputs).logits
        untouched = marks(case.model)
        with pytest.raises(ZeroDivisionError):
            fail(case.model, case.inputs)
        assert marks(case.model) == untouched
        assert torch.equal(case.model(**case.inputs).logits, before)


def test_the_block_goes_on_after_an_error_in_a_pass() -> None:
    case = warm(llava)
    calls = []

    def once(tokens: TokenBatch) -> Any:
        calls.append(tokens)
        return raising(tokens) if len(calls) == 1 else every(2)(tokens)

    with torch.no_grad(), attach(case.model, Cut(once, layer=2)) as pruning:
        with pytest.raises(ZeroDivisionError):
            case.model.generate(**case.inputs, max_new_tokens=2, use_cache=False)
        again = case.model(**case.inputs).logits
    with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)):
        assert torch.equal(case.model(**case.inputs).logits, again)
    assert len(pruning.selections) == 1


def test_nesting_is_refused_and_leaves_the_outer_block_alone() -> None:
    case = warm(llava)
    untouched = marks(case.model)
    with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)) as outer:
        inside = marks(case.model)
        with pytest.raises(PrunekitError, match="already"), attach(case.model, Cut(keep_all, layer=3)):
            pass
        assert marks(case.model) == inside
        case.model(**case.inputs)
    assert len(outer.selections) == 1
    assert marks(case.model) == untouched


def test_one_attachment_serves_several_blocks() -> None:
    case = warm(llava)
    untouched = marks(case.model)
    attachment = attach(case.model, Cut(every(2), layer=2, needs=NEEDS))
    assert marks(case.model) == untouched
    for _ in range(2):
        with torch.no_grad(), attachment as pruning:
            case.model(**case.inputs)
        assert len(pruning.selections) == 1
        assert marks(case.model) == untouched


def test_ones_own_overrides_come_back() -> None:
    case = warm(llava)
    mine = case.model.generate
    case.model.generate = mine
    with attach(case.model, Cut(every(2), layer=2)):
        assert case.model.__dict__["generate"] is not mine
    assert case.model.__dict__["generate"] is mine


def test_the_memory_of_a_dead_cache_is_free_at_once() -> None:
    case = warm(llava)
    gc.disable()
    try:
        with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)):
            keys = weakref.ref(case.model(**case.inputs).past_key_values.layers[0].keys)
            assert keys() is None
    finally:
        gc.enable()


def test_probing_leaves_the_cache_alone() -> None:
    case = warm(llava)
    with torch.no_grad():
        with attach(case.model, Cut(keep_all, layer=2, needs=[NEEDS[1]])):
            probed = case.model(**case.inputs).past_key_values
        plain = case.model(**case.inputs).past_key_values
    for with_probe, without in zip(probed.layers, plain.layers, strict=True):
        assert torch.equal(with_probe.keys, without.keys)
        assert torch.equal(with_probe.values, without.values)


def test_a_refused_model_is_left_alone() -> None:
    case = warm(llava)
    untouched = marks(case.model)
    with pytest.raises(UnsupportedModel):
        attach(case.model, Cut(keep_all, layer=LAYERS))
    assert marks(case.model) == untouched


def test_what_is_remembered_keeps_no_model_alive() -> None:
    case = llava("sdpa")
    with torch.no_grad(), attach(case.model, Cut(every(2), layer=0, needs=[NEEDS[1]])) as pruning:
        case.model(**case.inputs)
    model = weakref.ref(case.model)
    del case
    gc.collect()
    assert model() is None
    assert pruning.report().prompts == 1
