"""Costs by formula: what torch counts, what caches hold, what papers print."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers as hf
from choosing import every
from families import FAMILIES, Case, prompts, text_config
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunekit.hf import Cut, attach
from prunekit.hf.flops import Convention, cache_bytes, flops
from prunekit.hf.roofline import Roofline
from prunekit.hf.shape import Layer, Shape
from prunekit.schedule import Schedule, saving, schedule_for_saving

MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llava-1.5-7b": (hf.LlamaModel, hf.LlamaConfig, {}),
    "qwen2.5-vl-7b": (
        hf.Qwen2_5_VLTextModel,
        hf.Qwen2_5_VLTextConfig,
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
    ),
    "internvl2.5-8b": (
        hf.LlamaModel,
        hf.LlamaConfig,
        {"intermediate_size": 14336, "num_key_value_heads": 8},
    ),
    "gemma3-4b": (
        hf.Gemma3TextModel,
        hf.Gemma3TextConfig,
        {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_key_value_heads": 4,
            "sliding_window": 1024,
        },
    ),
    "latent attention": (hf.DeepseekV3Model, hf.DeepseekV3Config, {"num_hidden_layers": 2}),
}


def built(name: str) -> Any:
    """A decoder of the real sizes, without memory."""
    model, config, sizes = MODELS[name]
    with torch.device("meta"):
        return model(config(**sizes, attn_implementation="eager")).to(torch.bfloat16).eval()


@cache
def shape(name: str) -> Shape:
    return Shape.read(built(name))


def whole(decoder: Shape, visual: int) -> tuple[int, ...]:
    return (visual,) * len(decoder.layers)


def pruned(decoder: Shape, visual: int, layer: int, kept: int) -> tuple[int, ...]:
    return Schedule((layer,), (kept,)).tokens(visual, len(decoder.layers))


def counted(decoder: Any, length: int, **inputs: Any) -> int:
    config = decoder.config
    states = torch.ones(1, length, config.hidden_size, device=decoder.device, dtype=decoder.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder(inputs_embeds=states, use_cache=False, **inputs)
    return counter.get_total_flops()


DEEPSEEK = {
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 48,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}


# What torch counts


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_counts_the_same_in_every_family(family: str) -> None:
    decoder = FAMILIES[family]("eager").model.get_decoder()
    sizes = Shape.read(decoder)
    assert counted(decoder, 40) == flops(sizes, 40, whole(sizes, 0), "unmasked")


@pytest.mark.parametrize("name", MODELS)
def test_torch_counts_the_same_at_real_sizes(name: str) -> None:
    decoder, length = built(name), 2000
    mask = torch.zeros(1, 1, length, length, device="meta", dtype=torch.bfloat16)
    kinds = getattr(decoder.config, "layer_types", None)
    counts = counted(decoder, length, attention_mask=dict.fromkeys(kinds, mask) if kinds else mask)
    assert counts == pytest.approx(flops(shape(name), 500, whole(shape(name), 1500), "unmasked"), rel=1e-3)


@pytest.mark.parametrize(
    ("model", "config", "sizes"),
    [
        (hf.MixtralModel, hf.MixtralConfig, {"num_local_experts": 6}),
        (hf.Qwen3MoeModel, hf.Qwen3MoeConfig, {"num_experts": 6, "moe_intermediate_size": 48}),
        (hf.Qwen2MoeModel, hf.Qwen2MoeConfig, {"num_experts": 6, "shared_expert_intermediate_size": 32}),
        (hf.DeepseekV3Model, hf.DeepseekV3Config, DEEPSEEK),
    ],
)
def test_torch_counts_the_same_with_experts(model: type, config: type, sizes: dict[str, Any]) -> None:
    made = text_config(config, **sizes, num_experts_per_tok=2, attn_implementation="eager")
    made._experts_implementation = "eager"
    decoder = model(made).eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    measured = Shape.read(decoder)
    assert counted(decoder, 40) == pytest.approx(
        flops(measured, 40, whole(measured, 0), "unmasked"), rel=0.01
    )


def test_the_kernel_of_cpus_is_not_counted() -> None:
    """What `unmasked` says of torch's counter; should this fail, say it no longer."""
    decoder = FAMILIES["llava"]("sdpa").model.get_decoder()
    assert counted(decoder, 40) == sum(2 * 40 * layer.weights for layer in Shape.read(decoder).layers)


# What the conventions are


@given(st.integers(0, 40), st.none() | st.integers(1, 50))
def test_exact_counts_the_pairs_that_see_each_other(length: int, window: int | None) -> None:
    layer = Layer(
        weights=100, query_width=6, value_width=4, cache_width=5, mlp_width=1, weight_bytes=0, window=window
    )
    seen = sum(0 <= query - key < (window or length) for query in range(length) for key in range(length))
    exact, unmasked = (flops(Shape(8, (layer,), 2), length, (0,), each) for each in ("exact", "unmasked"))
    assert exact == 2 * length * 100 + 2 * seen * (6 + 4)
    assert unmasked - exact == 2 * (length**2 - seen) * (6 + 4)


def test_layers_have_sizes_of_their_own() -> None:
    decoder = hf.Qwen3_5TextModel(
        text_config(
            hf.Qwen3_5TextConfig,
            head_dim=16,
            layer_types=["linear_attention", "full_attention"] * 3,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        )
    )
    recurrent, attending = Shape.read(decoder).layers[:2]
    assert (recurrent.query_width, recurrent.cache_width) == (0, 0)
    assert (attending.query_width, attending.cache_width) == (64, 64)
    assert recurrent.weights == sum(p.numel() for p in decoder.layers[0].parameters() if p.ndim > 1)


def test_active_experts_count() -> None:
    with torch.device("meta"):
        decoder = hf.Qwen3MoeModel(hf.Qwen3MoeConfig(num_hidden_layers=1, mlp_only_layers=[])).bfloat16()
    layer = Shape.read(decoder).layers[0]
    attention, router, experts = 2 * 2048 * (2048 + 256), 128 * 2048, 8 * 3 * 2048 * 768
    assert layer.weights == attention + router + experts
    assert layer.weight_bytes == 2 * layer.weights
    assert layer.mlp_width == 8 * 768


def test_packed_weights_count_as_what_they_unpack_to() -> None:
    decoder = FAMILIES["llava"]("sdpa").model.get_decoder()
    expected = Shape.read(decoder).layers[0]
    for part in decoder.layers[0].modules():
        if isinstance(part, nn.Linear):
            packed = torch.zeros(part.weight.numel() // 2, 1, dtype=torch.uint8)
            part.weight = nn.Parameter(packed, requires_grad=False)
    layer = Shape.read(decoder).layers[0]
    assert (layer.weights, layer.weight_bytes) == (expected.weights, expected.weights // 2)


def test_decoders_that_name_less_are_read_as_well() -> None:
    neox = hf.GPTNeoXModel(text_config(hf.GPTNeoXConfig, num_key_value_heads=4))
    opt = hf.OPTModel(hf.OPTConfig(hidden_size=64, ffn_dim=96, num_attention_heads=4, word_embed_proj_dim=64))
    for decoder, mlp in ((neox, 96), (opt.get_decoder(), 96)):
        layer = Shape.read(decoder).layers[0]
        assert layer.weights == 4 * 64 * 64 + 2 * 64 * mlp
        assert (layer.query_width, layer.cache_width, layer.mlp_width) == (64, 2 * 64, mlp)


# What caches hold


def held(states: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in states.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_caches_hold_what_the_formula_says(family: str) -> None:
    case: Case = FAMILIES[family]("sdpa")
    decoder = case.model.get_decoder()
    sizes = Shape.read(decoder)
    states = decoder(inputs_embeds=torch.randn(1, 50, 64), use_cache=True).past_key_values
    assert held(states) == cache_bytes(sizes, 50, whole(sizes, 0))


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_pruned_caches_hold_what_the_formula_says(family: str) -> None:
    case = FAMILIES[family]("sdpa")
    row = prompts([[16, 16]])
    inputs = {**row, "pixel_values": case.inputs["pixel_values"][:2]}
    if family == "gemma3":
        inputs["token_type_ids"] = (row["input_ids"] == 5).long()
    sizes = Shape.read(case.model.get_decoder())
    text = row["input_ids"].shape[1] - 32
    with torch.no_grad(), attach(case.model, Cut(every(4), layer=2)):
        states = case.model(**inputs, use_cache=True).past_key_values
    assert (
        held(states)
        == cache_bytes(sizes, text, pruned(sizes, 32, 2, 8))
        < cache_bytes(sizes, text, whole(sizes, 32))
    )


# What papers print, and what follows from the sizes of their models


def test_fastv_published_costs() -> None:
    """FastV's table 1 for LLaVA-1.5-7B at K = 2, a layer on average; as recalled, with 35 tokens of text."""
    decoder = shape("llava-1.5-7b")
    for kept, giga in ((576, 99.3), (288, 54.6), (144, 32.8), (58, 19.9)):
        cost = flops(decoder, 35, pruned(decoder, 576, 2, kept), "fastv") / len(decoder.layers)
        assert cost / 1e9 == pytest.approx(giga, abs=0.15)


@pytest.mark.parametrize(
    ("convention", "text", "layer", "kept", "percent"),
    [
        ("fastv-visual", 0, 0, 192, 67.3),
        ("fastv-visual", 0, 2, 192, 63.1),
        ("fastv-visual", 500, 2, 192, 63.1),
        ("fastv-visual", 0, 1, 128, 75.8),
        ("fastv-visual", 0, 2, 128, 73.4),
        ("fastv-visual", 0, 2, 64, 83.6),
        ("fastv-visual", 0, 3, 64, 80.8),
        ("fastv", 75, 2, 64, 74.2),
        ("exact", 64, 0, 192, 60.3),
        ("exact", 64, 2, 192, 56.5),
        ("exact", 64, 2, 128, 65.9),
        ("exact", 64, 0, 64, 80.2),
        ("exact", 64, 2, 64, 75.2),
    ],
)
def test_savings_of_llava(convention: Convention, text: int, layer: int, kept: int, percent: float) -> None:
    cost = partial(flops, shape("llava-1.5-7b"), text, convention=convention)
    assert saving(Schedule((layer,), (kept,)), 576, 32, cost) == pytest.approx(percent / 100, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "visual", "tera", "mebi", "kept"),
    [
        ("llava-1.5-7b", 576, 8.40, 320, {128: (70.3, 65.9)}),
        ("internvl2.5-8b", 3328, 50.4, 424, {832: (74.7, 70.1), 333: (88.9, 83.4)}),
        ("qwen2.5-vl-7b", 1296, 18.1, 74, {324: (71.9, 66.8)}),
        ("qwen2.5-vl-7b", 16384, 269, 900, {1638: (91.5, 85.0)}),
    ],
)
def test_costs_of_real_models(
    name: str, visual: int, tera: float, mebi: float, kept: dict[int, tuple[float, float]]
) -> None:
    """With 64 tokens of text, in trillions of operations and MiB; savings of pruning at layers 0 and 2."""
    decoder = shape(name)
    cost = partial(flops, decoder, 64, convention="exact")
    assert cost(whole(decoder, visual)) == pytest.approx(tera * 1e12, rel=0.005)
    assert cache_bytes(decoder, 64, whole(decoder, visual)) == pytest.approx(mebi * 2**20, rel=0.01)
    for count, percents in kept.items():
        for layer, percent in zip((0, 2), percents, strict=True):
            saved = saving(Schedule((layer,), (count,)), visual, len(decoder.layers), cost)
            assert saved == pytest.approx(percent / 100, abs=1e-3)


@pytest.mark.parametrize("convention", ["exact", "unmasked", "fastv", "fastv-visual"])
def test_a_saving_leads_to_a_schedule(convention: Convention) -> None:
    cost = partial(flops, shape("llava-1.5-7b"), 35, convention=convention)
    found = schedule_for_saving(0.6, cost, layers=(2, 6, 15), visual=576, depth=32)
    assert saving(found, 576, 32, cost) == pytest.approx(0.6, abs=1e-3)


def test_prunings_at_several_layers_add_up() -> None:
    decoder = shape("llava-1.5-7b")
    pyramid = Schedule((8, 16, 24), (288, 144, 72)).tokens(576, 32)
    parts = [flops(decoder, 35, whole(decoder, kept), "exact") / 4 for kept in (576, 288, 144, 72)]
    assert flops(decoder, 35, pyramid, "exact") == pytest.approx(sum(parts))


def test_windows_hold_no_more_than_themselves() -> None:
    decoder = shape("gemma3-4b")
    sliding = [layer for layer in decoder.layers if layer.window]
    assert {layer.window for layer in sliding} == {1024}
    more = cache_bytes(decoder, 100, whole(decoder, 4000)) - cache_bytes(decoder, 100, whole(decoder, 3000))
    assert more == 1000 * 2 * (34 - len(sliding)) * 2 * 4 * 256


# What a machine would take

H100 = Roofline(flops=0.6 * 790e12, bandwidth=3.0e12)


def test_prefill_is_computing_until_weights_take_longer() -> None:
    decoder = shape("llava-1.5-7b")
    assert H100.prefill(decoder, 64, whole(decoder, 576)) == pytest.approx(17.7e-3, rel=0.01)
    assert H100.prefill(decoder, 64, pruned(decoder, 576, 2, 192)) == pytest.approx(7.7e-3, rel=0.01)
    weights = sum(layer.weight_bytes for layer in decoder.layers)
    assert H100.prefill(decoder, 0, whole(decoder, 8)) == weights / 3.0e12


def test_decoding_gains_by_its_cache_only() -> None:
    decoder = shape("llava-1.5-7b")
    before, after = whole(decoder, 576), whole(decoder, 64)
    assert 1 < H100.decode(decoder, 64, before) / H100.decode(decoder, 64, after) < 1.03
    gain = H100.decode(decoder, 64, before, batch=64) / H100.decode(decoder, 64, after, batch=64)
    assert gain == pytest.approx(2, abs=0.1)
