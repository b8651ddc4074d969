"""More tiny models: families that prunekit has no facts of, and models that it cannot prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from families import (
    END,
    IMAGE,
    START,
    THW,
    VIDEO,
    Case,
    flat_patches,
    noise,
    prompts,
    ready,
    text_config,
    vision_config,
)

SQUARES = ((16, 16), (16,))
EXPERTS = {"moe_intermediate_size": 48, "num_experts_per_tok": 2}


def _squares(model: Any, implementation: str, image: int = 32, **more: Any) -> Case:
    """Three images of 4 × 4 tokens."""
    inputs: dict[str, Any] = prompts(SQUARES) | {"pixel_values": noise(3, 3, image, image)}
    return Case(ready(model, implementation), inputs | more)


def aria(implementation: str) -> Case:
    config = hf.AriaConfig(
        vision_config=vision_config(hf.models.idefics3.Idefics3VisionConfig),
        text_config=text_config(hf.AriaTextConfig, moe_num_experts=4),
        image_token_index=IMAGE,
        projector_patch_to_query_dict={16: 16},
    )
    return _squares(hf.AriaForConditionalGeneration(config), implementation)


def llama4(implementation: str) -> Case:
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    merged = {"vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64}
    config = hf.Llama4Config(
        vision_config=sizes | merged | {"image_size": 32, "patch_size": 4, "pixel_shuffle_ratio": 0.5},
        text_config=text_config(
            intermediate_size_mlp=96,
            head_dim=16,
            num_local_experts=2,
            interleave_moe_layer_step=2,
            attention_chunk_size=64,
        ),
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
    )
    return _squares(hf.Llama4ForConditionalGeneration(config), implementation)


def idefics2(implementation: str) -> Case:
    perceiver = {"hidden_size": 64, "resampler_n_latents": 16, "resampler_depth": 1, "resampler_n_heads": 4}
    config = hf.Idefics2Config(
        vision_config=vision_config(num_hidden_layers=2),
        perceiver_config=perceiver | {"resampler_head_dim": 16, "num_key_value_heads": 2},
        text_config=text_config(hf.MistralConfig),
        image_token_id=IMAGE,
    )
    case = _squares(hf.Idefics2ForConditionalGeneration(config), implementation)
    pixels = noise(2, 2, 3, 32, 32)
    pixels[1, 1] = 0  # the second row has one image fewer, which this family pads with a black one
    return Case(case.model, case.inputs | {"pixel_values": pixels})


def deepseek_vl(implementation: str) -> Case:
    config = hf.DeepseekVLConfig(
        vision_config=vision_config(hf.SiglipVisionConfig, vision_use_head=False),
        text_config=text_config(hf.LlamaConfig),
        image_token_id=IMAGE,
    )
    return _squares(hf.DeepseekVLForConditionalGeneration(config), implementation)


def got_ocr2(implementation: str) -> Case:
    vision = {"output_channels": 16, "mlp_dim": 64, "window_size": 4, "global_attn_indexes": [1]}
    config = hf.GotOcr2Config(
        vision_config=vision_config(image=256, num_hidden_layers=2, patch_size=16, **vision),
        text_config=text_config(hf.Qwen2Config),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return _squares(hf.GotOcr2ForConditionalGeneration(config), implementation, image=256)


def lighton_ocr(implementation: str) -> Case:
    config = hf.LightOnOcrConfig(
        vision_config=vision_config(hf.PixtralVisionConfig, image=64, head_dim=8),
        text_config=text_config(hf.Qwen3Config, head_dim=16),
        image_token_id=IMAGE,
    )
    sizes = torch.tensor([[64, 48], [32, 64], [48, 48]])
    tokens = (sizes // 16).prod(1).tolist()
    model = ready(hf.LightOnOcrForConditionalGeneration(config), implementation)
    inputs = {"pixel_values": noise(3, 3, 64, 64), "image_sizes": sizes}
    return Case(model, prompts([tokens[:2], tokens[2:]]) | inputs)


def video_llava(implementation: str) -> Case:
    config = hf.VideoLlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_seq_length=16,
    )
    model = ready(hf.VideoLlavaForConditionalGeneration(config), implementation)
    return Case(model, prompts(SQUARES) | {"pixel_values_images": noise(3, 3, 32, 32)})


def qwen3_vl_moe(implementation: str) -> Case:
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 16,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0}
    config = hf.Qwen3VLMoeConfig(
        vision_config=vision,
        text_config=text_config(head_dim=16, rope_parameters=rope, num_experts=4, **EXPERTS),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return flat_patches(hf.Qwen3VLMoeForConditionalGeneration(config), 16, THW, implementation)


def glm4v_moe(implementation: str) -> Case:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "out_hidden_size": 64,
    }
    rope = {
        "rope_type": "default",
        "mrope_section": [1, 1, 2],
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    }
    config = hf.Glm4vMoeConfig(
        vision_config=vision,
        text_config=text_config(rope_parameters=rope, n_routed_experts=4, **EXPERTS),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=110,
        video_end_token_id=111,
    )
    return flat_patches(hf.Glm4vMoeForConditionalGeneration(config), 14, THW, implementation)


class StrangerConfig(hf.LlavaConfig):
    model_type = "stranger"


class StrangerForConditionalGeneration(hf.LlavaForConditionalGeneration):
    """A model that nobody has heard of."""

    config_class = StrangerConfig


def stranger(implementation: str) -> Case:
    config = StrangerConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return _squares(StrangerForConditionalGeneration(config), implementation)


FURTHER: dict[str, Callable[[str], Case]] = {
    family.__name__: family
    for family in (
        aria,
        llama4,
        idefics2,
        deepseek_vl,
        got_ocr2,
        lighton_ocr,
        video_llava,
        qwen3_vl_moe,
        glm4v_moe,
        stranger,
    )
}
