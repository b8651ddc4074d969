"""What cannot be pruned is refused with a reason, before the model computes anything."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from choosing import every, keep_all, selection, top
from families import IMAGE, LAYERS, Case, gemma3, llava, qwen2_5_vl, text_config
from further import llama4
from leftovers import marks
from packaging.version import Version
from torch import nn

from prunekit import (
    PrunekitError,
    Selection,
    Signal,
    TextAttention,
    TokenBatch,
    TokenError,
    UnsupportedModel,
)
from prunekit.hf import Cut, attach


@pytest.fixture
def case() -> Case:
    return llava("sdpa")


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([-1], "no layer -1"),
        ([LAYERS], f"0 to {LAYERS - 1}"),
        ([2, LAYERS], f"0 to {LAYERS - 1}"),
        ([], "got none"),
        ([2, 2], "ascending order; got 2, 2"),
        ([3, 2], "ascending order; got 3, 2"),
    ],
)
def test_layers_that_are_not_there(case: Case, layers: list[int], why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        attach(case.model, *(Cut(keep_all, layer=layer) for layer in layers))


def test_attention_before_the_first_layer() -> None:
    with pytest.raises(UnsupportedModel, match="there is none before layer 0"):
        Cut(keep_all, layer=0, needs=[TextAttention()])


def test_a_model_without_eyes() -> None:
    blind = hf.LlamaForCausalLM(text_config(hf.LlamaConfig))
    with pytest.raises(UnsupportedModel, match="no visual tokens"):
        attach(blind, Cut(keep_all, layer=2))


def test_a_wrapper_around_a_model(case: Case) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.model

    with pytest.raises(UnsupportedModel, match="no transformers model"):
        attach(Wrapper(), Cut(keep_all, layer=2))  # type: ignore[arg-type]


def _compiled(model: Any) -> Any:
    return torch.compile(model)


def _compiled_in_place(model: Any) -> Any:
    model.compile()
    return model


def _compiled_decoder(model: Any) -> Any:
    model.model.language_model = torch.compile(model.model.language_model)
    return model


def _compiled_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward)
    return model


@pytest.mark.parametrize("compiled", [_compiled, _compiled_in_place, _compiled_decoder, _compiled_forward])
def test_compiled_models(case: Case, compiled: Callable[[Any], Any]) -> None:
    with pytest.raises(UnsupportedModel, match="compile"):
        attach(compiled(case.model), Cut(keep_all, layer=2))


@pytest.mark.parametrize("name", ["flex_attention", "paged|sdpa", "something_else"])
def test_unknown_attention(case: Case, name: str) -> None:
    case.model.get_decoder().config._attn_implementation_internal = name
    with pytest.raises(UnsupportedModel, match="eager, sdpa or flash"):
        attach(case.model, Cut(keep_all, layer=2))


def test_flash_attention_in_a_sliding_window() -> None:
    model = gemma3("sdpa").model
    model.get_decoder().config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="sliding window"):
        attach(model, Cut(keep_all, layer=2))


def test_layers_without_ordinary_attention(case: Case) -> None:
    case.model.get_decoder().layers[3].self_attn = nn.Identity()
    with pytest.raises(UnsupportedModel, match="Layer 3"):
        attach(case.model, Cut(keep_all, layer=2))


def test_shared_keys(case: Case) -> None:
    case.model.get_decoder().layers[3].self_attn.is_kv_shared_layer = True
    with pytest.raises(UnsupportedModel, match="shares the keys"):
        attach(case.model, Cut(keep_all, layer=2))


def test_attention_that_passes_no_interface(case: Case) -> None:
    with attach(case.model, Cut(keep_all, layer=2)):
        pass
    attention = case.model.get_decoder().layers[1].self_attn

    class Foreign(type(attention)):  # type: ignore[misc]
        forward = nn.Identity.forward

    attention.__class__ = Foreign
    untouched = marks(case.model)
    with (
        pytest.raises(UnsupportedModel, match="attention interface"),
        attach(case.model, Cut(keep_all, layer=2, needs=[TextAttention()])),
    ):
        pass
    assert marks(case.model) == untouched


def test_unknown_signals(case: Case) -> None:
    class Smell(Signal):
        pass

    with pytest.raises(UnsupportedModel, match="does not capture"):
        attach(case.model, Cut(keep_all, layer=2, needs=[Smell()]))


def test_unknown_positions(case: Case) -> None:
    with pytest.raises(UnsupportedModel, match="keep"):
        attach(case.model, Cut(keep_all, layer=2), positions="shuffle")  # type: ignore[arg-type]


def test_closing_up_positions_in_three_dimensions() -> None:
    with pytest.raises(UnsupportedModel, match="time, height and width"):
        attach(qwen2_5_vl("sdpa").model, Cut(keep_all, layer=2), positions="repack")


def test_closing_up_positions_that_depend_on_length(case: Case) -> None:
    config = case.model.get_decoder().config
    config.rope_parameters = {**config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}
    with pytest.raises(UnsupportedModel, match="length of the sequence"):
        attach(case.model, Cut(keep_all, layer=2), positions="repack")


def _refused(case: Case, why: str, run: Callable[[Any], Any], **more: Any) -> None:
    """Refused inside the block, and no layer ran."""
    ran: list[int] = []
    layer = case.model.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda *_: ran.append(1))
    with (
        torch.no_grad(),
        attach(case.model, Cut(every(2), layer=2), **more),
        pytest.raises(UnsupportedModel, match=why),
    ):
        run(case.model)
    handle.remove()
    assert ran == []


@pytest.mark.parametrize(
    ("why", "settings"),
    [
        ("StaticLayer", {"cache_implementation": "static"}),
        ("assisted", {"assistant_model": "self"}),
        ("prompt lookup", {"prompt_lookup_num_tokens": 3}),
        ("in chunks", {"prefill_chunk_size": 8}),
    ],
)
def test_ways_to_generate(case: Case, why: str, settings: dict[str, Any]) -> None:
    if "assistant_model" in settings:
        settings = {"assistant_model": copy.deepcopy(case.model)}
    _refused(case, why, lambda model: model.generate(**case.inputs, max_new_tokens=3, **settings))


def test_a_generation_config_counts_too(case: Case) -> None:
    config = copy.deepcopy(case.model.generation_config)
    config.prompt_lookup_num_tokens = 3
    _refused(case, "prompt lookup", lambda m: m.generate(**case.inputs, generation_config=config))
    inputs = {name: value for name, value in case.inputs.items() if name != "input_ids"}
    _refused(case, "prompt lookup", lambda m: m.generate(case.inputs["input_ids"], config, **inputs))


def test_static_and_offloaded_caches(case: Case) -> None:
    static = hf.StaticCache(config=case.model.config, max_cache_len=200)
    _refused(case, "StaticLayer", lambda model: model(**case.inputs, past_key_values=static))
    growing = hf.DynamicCache(config=case.model.config)
    growing.offloading = True
    _refused(case, "offloading", lambda model: model(**case.inputs, past_key_values=growing))
    _refused(case, "tuple", lambda model: model(**case.inputs, past_key_values=()))


def test_attention_changed_inside_the_block(case: Case) -> None:
    def run(model: Any) -> None:
        model.set_attn_implementation("eager")
        model(**case.inputs)

    _refused(case, "from sdpa to eager", run)


def test_gradient_checkpointing(case: Case) -> None:
    case.model.train()
    case.model.gradient_checkpointing_enable()
    _refused(case, "checkpointing", lambda model: model(**case.inputs, use_cache=False))


def test_inputs_without_token_ids(case: Case) -> None:
    embeds = case.model.get_input_embeddings()(case.inputs["input_ids"])
    _refused(case, "input_ids", lambda model: model(inputs_embeds=embeds))
    _refused(case, "input_ids", lambda model: model.generate(inputs_embeds=embeds, max_new_tokens=2))


def test_masks_of_ones_own(case: Case) -> None:
    length = case.inputs["input_ids"].shape[1]
    whole = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    inputs = {**case.inputs, "attention_mask": whole}
    _refused(case, "padding mask", lambda model: model(**inputs))
    _refused(case, "padding mask", lambda m: m(**{**inputs, "attention_mask": {"full_attention": whole}}))


def test_a_padding_mask_of_the_wrong_length(case: Case) -> None:
    short = {**case.inputs, "attention_mask": case.inputs["attention_mask"][:, 1:]}
    with attach(case.model, Cut(every(2), layer=2)), pytest.raises(TokenError, match="past and new"):
        case.model(**short)


def _settled(kept: torch.Tensor) -> Any:
    """Something like a selection, whatever it keeps."""
    like = SimpleNamespace(kept=kept)
    like.settled = lambda: like
    return like


def _wrong_shape(tokens: TokenBatch) -> Any:
    return _settled(tokens.present[:, :-1])


def _wrong_dtype(tokens: TokenBatch) -> Any:
    return _settled(tokens.present.long())


def _keeps_padding(tokens: TokenBatch) -> Any:
    return selection(tokens, torch.ones_like(tokens.present))


def _keeps_nothing(tokens: TokenBatch) -> Any:
    return selection(tokens, tokens.present & (torch.arange(2)[:, None] == 0))


@pytest.mark.parametrize(
    ("select", "why"),
    [
        (_wrong_shape, "bool mask"),
        (_wrong_dtype, "bool mask"),
        (_keeps_padding, "padding in sample 1"),
        (_keeps_nothing, "no visual token of sample 1"),
    ],
)
def test_selections_that_are_none(case: Case, select: Any, why: str) -> None:
    with attach(case.model, Cut(select, layer=2)), pytest.raises(TokenError, match=why):
        case.model(**case.inputs)


def test_attention_that_overflows(case: Case) -> None:
    nn.init.constant_(case.model.get_decoder().layers[1].self_attn.q_proj.weight, torch.nan)
    need = TextAttention()
    with (
        attach(case.model, Cut(top(0.5, need), layer=2, needs=[need])),
        pytest.raises(PrunekitError, match="not finite"),
    ):
        case.model(**case.inputs)


def test_a_prompt_that_ends_in_a_dropped_image(case: Case) -> None:
    ids = torch.tensor([[1, 11, 12, *[IMAGE] * 16]])
    inputs = {"input_ids": ids, "pixel_values": case.inputs["pixel_values"][:1]}
    with torch.no_grad():
        with (
            attach(case.model, Cut(every(2), layer=2)),
            pytest.raises(PrunekitError, match="End prompts with text"),
        ):
            case.model(**inputs)
        with attach(case.model, Cut(every(15), layer=2, needs=[TextAttention(query="mean")])) as pruning:
            case.model(**inputs)
    assert pruning.selections[0].kept.sum() == 2


def test_a_cache_pruned_at_another_layer(case: Case) -> None:
    follow = {"input_ids": torch.full((2, 2), 31)}
    with torch.no_grad():
        with attach(case.model, Cut(every(2), layer=2)):
            cache = case.model(**case.inputs).past_key_values
        with (
            attach(case.model, Cut(every(2), layer=3)),
            pytest.raises(PrunekitError, match="pruned at layer 2"),
        ):
            case.model(**follow, past_key_values=cache)
        with attach(case.model, Cut(every(2), layer=2)):
            case.model(**follow, past_key_values=cache)


def test_a_cache_that_went_on_outside_of_a_block(case: Case) -> None:
    one = {"input_ids": torch.full((2, 1), 31), "position_ids": torch.full((2, 1), 60)}
    with torch.no_grad():
        with attach(case.model, Cut(every(2), layer=2)):
            cache = case.model(**case.inputs).past_key_values
        case.model(**one, past_key_values=cache)
        with attach(case.model, Cut(every(2), layer=2)), pytest.raises(PrunekitError, match="outside"):
            case.model(**one, past_key_values=cache)


def test_a_cache_that_a_failed_pass_left_behind(case: Case) -> None:
    follow = {"input_ids": torch.full((2, 2), 31)}

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)):
        cache = case.model(**case.inputs).past_key_values
        handle = case.model.get_decoder().layers[4].register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            case.model(**follow, past_key_values=cache)
        handle.remove()
        with pytest.raises(PrunekitError, match="failed half way"):
            case.model(**follow, past_key_values=cache)


def test_cropping_a_cache_back_into_what_was_dropped(case: Case) -> None:
    with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)):
        cache = case.model(**case.inputs).past_key_values
        with pytest.raises(PrunekitError, match="Cannot crop"):
            cache.crop(-20)
        assert cache.get_seq_length() == case.inputs["input_ids"].shape[1]


@pytest.mark.parametrize("way", ["forward", "generate"])
def test_two_threads_at_a_time(case: Case, way: str) -> None:
    """What is refused is the second; the first goes on as if it were alone."""
    told: list[object] = []

    def run() -> Any:
        with torch.no_grad():
            if way == "forward":
                return case.model(**case.inputs).logits
            return case.model.generate(**case.inputs, max_new_tokens=3, do_sample=False)

    def intrude() -> None:
        try:
            told.append(run())
        except PrunekitError as error:
            told.append(str(error))

    def select(tokens: TokenBatch) -> Selection:
        if len(told) == 1:
            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()
        return every(2)(tokens)

    with attach(case.model, Cut(select, layer=2)) as pruning:
        told.append(run())
        disturbed = run()
        assert torch.equal(disturbed, run())
    assert torch.equal(disturbed, told[0])
    assert "Another thread" in str(told[1])
    assert pruning.prompts == 3


def test_a_thread_after_another_that_failed(case: Case) -> None:
    def failing() -> None:
        with pytest.raises(TokenError):
            case.model(**{**case.inputs, "attention_mask": case.inputs["attention_mask"][:, 1:]})

    with torch.no_grad(), attach(case.model, Cut(every(2), layer=2)) as pruning:
        thread = threading.Thread(target=failing)
        thread.start()
        thread.join()
        case.model(**case.inputs)
    assert pruning.prompts == 1


@pytest.mark.skipif(Version(hf.__version__) < Version("5.23"), reason="its configuration cannot generate")
def test_prompts_so_long_that_attention_is_scaled_by_place() -> None:
    long = llama4("sdpa")
    for layer in long.model.get_decoder().model.layers:
        layer.self_attn.floor_scale = long.inputs["input_ids"].shape[1] + 1
    with torch.no_grad(), attach(long.model, Cut(every(2), layer=2)):
        long.model(**long.inputs)
        with pytest.raises(UnsupportedModel, match="scales attention by how many"):
            long.model.generate(**long.inputs, max_new_tokens=4, min_new_tokens=4)
