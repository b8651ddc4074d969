"""Tiny models of the real families, made from configs: random weights, six layers, no download."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

IMAGE, VIDEO, START, END, PADDING = 5, 6, 7, 8, 0
WORDS = range(10, 110)
LAYERS = 6
SIDE = 4
"""Most families here have 4 × 4 tokens an image."""


@dataclass(frozen=True)
class Case:
    """A model and a batch for it: two images in the first row, one in the second, padded on the left."""

    model: Any
    inputs: dict[str, Any]

    @property
    def visual(self) -> Tensor:
        return self.inputs["input_ids"] == IMAGE


def prompts(rows: Sequence[Sequence[int | tuple[int, int]]]) -> dict[str, Tensor]:
    """Token ids and padding mask of rows with so many visual tokens an image and some words around.

    A pair is a token id and how many there are of it.
    """
    draw = torch.Generator().manual_seed(3)

    def words(count: int) -> list[int]:
        return torch.randint(WORDS.start, WORDS.stop, (count,), generator=draw).tolist()

    filled = []
    for number, images in enumerate(rows):
        pairs = [(IMAGE, size) if isinstance(size, int) else size for size in images]
        middle = [token for visual, size in pairs for token in (START, *[visual] * size, END)]
        filled.append([1, *words(3 + number), *middle, *words(4 + 3 * number)])
    longest = max(map(len, filled))
    ids = [[PADDING] * (longest - len(row)) + row for row in filled]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in filled]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text_config(config: type | None = None, **more: Any) -> Any:
    sizes = {
        "vocab_size": 120,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": PADDING,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    sizes |= more
    return sizes if config is None else config(**sizes)


def vision_config(config: type | None = None, image: int = 32, **more: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": image,
        "patch_size": 8,
    }
    sizes |= more
    return sizes if config is None else config(**sizes)


def ready(model: Any, implementation: str) -> Any:
    """Weights wide enough that attention is far from uniform; never stops at an end token."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5)
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PADDING
    # Words at random must not turn into images.
    model.generation_config.suppress_tokens = [IMAGE, VIDEO, START, END, *range(WORDS.stop, 120)]
    model.set_attn_implementation(implementation)
    return model


def llava(implementation: str, rows: Sequence[Sequence[int]] = ((16, 16), (16,)), **vision: Any) -> Case:
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig, **vision),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    model = ready(hf.LlavaForConditionalGeneration(config), implementation)
    images = sum(map(len, rows))
    pixels = {"pixel_values": noise(images, 3, 32, 32)} if images else {}
    return Case(model, prompts(rows) | pixels)


def tiled(model: Any, inputs: dict[str, Any], first: int = 2) -> Case:
    """For models that lay images out by size: asks the model how many tokens each takes.

    So many images are in the first row, the others in the second.
    """
    features = model.model.get_image_features(**inputs)
    sizes = [part.shape[0] for part in getattr(features, "pooler_output", features)]
    return Case(model, prompts([sizes[:first], sizes[first:]]) | inputs)


PINPOINTS = [[32, 64], [64, 32], [64, 64]]


def llava_next(implementation: str) -> Case:
    config = hf.LlavaNextConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )
    model = ready(hf.LlavaNextForConditionalGeneration(config), implementation)
    sizes = torch.tensor([[60, 50], [32, 64], [64, 64]])
    return tiled(model, {"pixel_values": noise(3, 5, 3, 32, 32), "image_sizes": sizes})


def llava_onevision(implementation: str) -> Case:
    config = hf.LlavaOnevisionConfig(
        vision_config=vision_config(hf.SiglipVisionConfig),
        text_config=text_config(hf.Qwen2Config),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )
    model = ready(hf.LlavaOnevisionForConditionalGeneration(config), implementation)
    sizes = torch.tensor([[60, 50], [32, 64], [64, 64]])
    inputs = {
        "pixel_values": noise(3, 5, 3, 32, 32),
        "image_sizes": sizes,
        "batch_num_images": torch.tensor([1, 1, 1]),
    }
    return tiled(model, inputs)


def internvl(implementation: str) -> Case:
    config = hf.InternVLConfig(
        vision_config=vision_config(hf.InternVLVisionConfig, image_size=[64, 64], patch_size=[8, 8]),
        text_config=text_config(hf.Qwen2Config),
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    model = ready(hf.InternVLForConditionalGeneration(config), implementation)
    return Case(model, prompts([[32, 16], [16]]) | {"pixel_values": noise(4, 3, 64, 64)})


def flat_patches(model: Any, patch: int, thw: Tensor, implementation: str) -> Case:
    sizes = (thw.prod(1) // 4).tolist()
    inputs: dict[str, Any] = prompts([sizes[:2], sizes[2:]])
    inputs["pixel_values"] = noise(int(thw.prod(1).sum()), 3 * 2 * patch * patch)
    inputs["image_grid_thw"] = thw
    return Case(ready(model, implementation), inputs | token_types(model, inputs["input_ids"]))


def token_types(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """What newer releases want to know: 1 for images, 2 for videos."""
    if "mm_token_type_ids" not in inspect.signature(type(model).forward).parameters:
        return {}
    return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


THW = torch.tensor([[1, 8, 6], [1, 4, 8], [1, 8, 8]])


def qwen2_5_vl(implementation: str) -> Case:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = hf.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text_config(rope_parameters=rope),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return flat_patches(hf.Qwen2_5_VLForConditionalGeneration(config), 14, THW, implementation)


def qwen3_vl(implementation: str) -> Case:
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    rope = {
        "rope_type": "default",
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    config = hf.Qwen3VLConfig(
        vision_config=vision,
        text_config=text_config(head_dim=16, rope_parameters=rope),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return flat_patches(hf.Qwen3VLForConditionalGeneration(config), 16, THW, implementation)


def _idefics(model: type, config: type, implementation: str) -> Case:
    made = model(
        config(
            vision_config=vision_config(image=64, num_hidden_layers=2),
            text_config=text_config(hf.LlamaConfig),
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PADDING,
        )
    )
    pixels = noise(2, 3, 3, 64, 64)
    pixels[1, 2] = 0  # the second row has one tile fewer, which this family pads with a black one
    inputs = prompts([[16, 16, 16], [16, 16]]) | {"pixel_values": pixels}
    return Case(ready(made, implementation), inputs)


def smolvlm(implementation: str) -> Case:
    return _idefics(hf.SmolVLMForConditionalGeneration, hf.SmolVLMConfig, implementation)


def idefics3(implementation: str) -> Case:
    return _idefics(hf.Idefics3ForConditionalGeneration, hf.Idefics3Config, implementation)


def gemma3(implementation: str) -> Case:
    text = text_config(
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"] * 3,
    )
    config = hf.Gemma3Config(
        vision_config=vision_config(image=64, num_hidden_layers=2),
        text_config=text,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        mm_tokens_per_image=16,
    )
    inputs: dict[str, Any] = prompts([[16, 16], [16]])
    inputs["pixel_values"] = noise(3, 3, 64, 64)
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    return Case(ready(hf.Gemma3ForConditionalGeneration(config), implementation), inputs)


def paligemma(implementation: str) -> Case:
    vision = vision_config(num_hidden_layers=2, model_type="siglip_vision_model", vision_use_head=False)
    config = hf.PaliGemmaConfig(
        vision_config=vision,
        text_config=text_config(model_type="gemma", head_dim=16),
        image_token_index=IMAGE,
        projection_dim=64,
        hidden_size=64,
        pad_token_id=PADDING,
    )
    inputs: dict[str, Any] = prompts([[16, 16], [16]])
    inputs["pixel_values"] = noise(3, 3, 32, 32)
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return Case(ready(hf.PaliGemmaForConditionalGeneration(config), implementation), inputs)


def qwen2_vl(implementation: str) -> Case:
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "mlp_ratio": 2,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = hf.Qwen2VLConfig(
        vision_config=vision,
        text_config=text_config(rope_parameters=rope),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return flat_patches(hf.Qwen2VLForConditionalGeneration(config), 14, THW, implementation)


def glm4v(implementation: str) -> Case:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "out_hidden_size": 64,
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = hf.Glm4vConfig(
        vision_config=vision,
        text_config=text_config(rope_parameters=rope),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=110,
        video_end_token_id=111,
    )
    return flat_patches(hf.Glm4vForConditionalGeneration(config), 14, THW, implementation)


def llava_next_video(implementation: str) -> Case:
    config = hf.LlavaNextVideoConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )
    model = ready(hf.LlavaNextVideoForConditionalGeneration(config), implementation)
    sizes = torch.tensor([[60, 50], [32, 64], [64, 64]])
    return tiled(model, {"pixel_values": noise(3, 5, 3, 32, 32), "image_sizes": sizes})


def llava_with_class_token(implementation: str) -> Case:
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_seq_length=17,
        vision_feature_select_strategy="full",
    )
    model = ready(hf.LlavaForConditionalGeneration(config), implementation)
    return Case(model, prompts([[17, 17], [17]]) | {"pixel_values": noise(3, 3, 32, 32)})


def vipllava(implementation: str) -> Case:
    config = hf.VipLlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layers=[-1, 1],
    )
    model = ready(hf.VipLlavaForConditionalGeneration(config), implementation)
    return Case(model, prompts([[16, 16], [16]]) | {"pixel_values": noise(3, 3, 32, 32)})


def janus(implementation: str) -> Case:
    quantizer = {"embed_dim": 8, "num_embeddings": 8, "latent_channels": 32, "base_channels": 32}
    config = hf.JanusConfig(
        vision_config=vision_config(hf.JanusVisionConfig, projection_dim=64, num_image_tokens=16),
        text_config=text_config(hf.LlamaConfig),
        vq_config=hf.JanusVQVAEConfig(**quantizer, projection_dim=64, image_token_embed_dim=64),
        image_token_id=IMAGE,
    )
    model = ready(hf.JanusForConditionalGeneration(config), implementation)
    return Case(model, prompts([[16, 16], [16]]) | {"pixel_values": noise(3, 3, 32, 32)})


def ovis2(implementation: str) -> Case:
    vision = vision_config(hf.Ovis2VisionConfig, image=64, hidden_stride=2, vocab_size=40)
    config = hf.Ovis2Config(
        vision_config=vision,
        text_config=text_config(hf.Qwen2Config),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[111, 112, 113, 114, 115],
        vocab_size=120,
        hidden_size=64,
    )
    model = ready(hf.Ovis2ForConditionalGeneration(config), implementation)
    return Case(model, prompts([[16, 16], [16]]) | {"pixel_values": noise(3, 3, 64, 64)})


def _cohere(model: type, config: type, implementation: str, **more: Any) -> Case:
    made = model(
        config(
            vision_config=vision_config(hf.SiglipVisionConfig, image=64, vision_use_head=False),
            text_config=text_config(hf.Cohere2Config),
            **more,
        )
    )
    inputs = prompts([[16, 16], [16]]) | {"pixel_values": noise(3, 3, 64, 64)}
    return Case(ready(made, implementation), inputs)


def aya_vision(implementation: str) -> Case:
    model, config = hf.AyaVisionForConditionalGeneration, hf.AyaVisionConfig
    return _cohere(model, config, implementation, image_token_index=IMAGE)


def cohere2_vision(implementation: str) -> Case:
    model, config = hf.Cohere2VisionForConditionalGeneration, hf.Cohere2VisionConfig
    return _cohere(model, config, implementation, image_token_id=IMAGE, alignment_intermediate_size=96)


def _pixtral(model: type, config: type, step: int, implementation: str) -> Case:
    """Rows of patches with a word between them."""
    made = model(
        config(
            vision_config=vision_config(hf.PixtralVisionConfig, image=64, head_dim=8),
            text_config=text_config(hf.MistralConfig),
            image_token_index=IMAGE,
        )
    )
    sizes = torch.tensor([[64, 48], [32, 64], [48, 48]])
    rows = [[columns] * lines for lines, columns in (sizes // step).tolist()]
    inputs = prompts([rows[0] + rows[1], rows[2]])
    return Case(
        ready(made, implementation), inputs | {"pixel_values": noise(3, 3, 64, 64), "image_sizes": sizes}
    )


def mistral3(implementation: str) -> Case:
    return _pixtral(hf.Mistral3ForConditionalGeneration, hf.Mistral3Config, 16, implementation)


def pixtral(implementation: str) -> Case:
    def config(**more: Any) -> Any:
        return hf.LlavaConfig(vision_feature_layer=-1, vision_feature_select_strategy="full", **more)

    return _pixtral(hf.LlavaForConditionalGeneration, config, 8, implementation)


FAMILIES: dict[str, Callable[[str], Case]] = {
    family.__name__: family
    for family in (
        llava,
        llava_next,
        llava_onevision,
        internvl,
        qwen2_5_vl,
        qwen3_vl,
        smolvlm,
        idefics3,
        gemma3,
        paligemma,
    )
}

LAYOUTS: dict[str, Callable[[str], Case]] = FAMILIES | {
    family.__name__: family
    for family in (
        qwen2_vl,
        glm4v,
        llava_next_video,
        llava_with_class_token,
        vipllava,
        janus,
        ovis2,
        aya_vision,
        cohere2_vision,
        mistral3,
        pixtral,
    )
}
"""More families, of which only the layout of their tokens is checked."""
