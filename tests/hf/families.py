"""Tiny models of the real families, made from configs: random weights, six layers, no download."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

IMAGE, START, END, PADDING = 5, 7, 8, 0
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


def prompts(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Token ids and padding mask of rows with so many visual tokens an image and some words around."""
    draw = torch.Generator().manual_seed(3)

    def words(count: int) -> list[int]:
        return torch.randint(10, 110, (count,), generator=draw).tolist()

    filled = []
    for number, images in enumerate(rows):
        middle = [token for size in images for token in (START, *[IMAGE] * size, END)]
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


def _ready(model: Any, implementation: str) -> Any:
    """Weights wide enough that attention is far from uniform; never stops at an end token."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5)
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PADDING
    model.generation_config.suppress_tokens = [IMAGE]  # words at random must not turn into images
    model.set_attn_implementation(implementation)
    return model


def llava(implementation: str, rows: Sequence[Sequence[int]] = ((16, 16), (16,))) -> Case:
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    model = _ready(hf.LlavaForConditionalGeneration(config), implementation)
    images = sum(map(len, rows))
    pixels = {"pixel_values": noise(images, 3, 32, 32)} if images else {}
    return Case(model, prompts(rows) | pixels)


def _tiled(model: Any, inputs: dict[str, Any]) -> Case:
    """For models that lay images out by size: asks the model how many tokens each takes."""
    features = model.model.get_image_features(**inputs)
    sizes = [part.shape[0] for part in getattr(features, "pooler_output", features)]
    return Case(model, prompts([sizes[:2], sizes[2:]]) | inputs)


PINPOINTS = [[32, 64], [64, 32], [64, 64]]


def llava_next(implementation: str) -> Case:
    config = hf.LlavaNextConfig(
        vision_config=vision_config(hf.CLIPVisionConfig),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )
    model = _ready(hf.LlavaNextForConditionalGeneration(config), implementation)
    sizes = torch.tensor([[60, 50], [32, 64], [64, 64]])
    return _tiled(model, {"pixel_values": noise(3, 5, 3, 32, 32), "image_sizes": sizes})


def llava_onevision(implementation: str) -> Case:
    config = hf.LlavaOnevisionConfig(
        vision_config=vision_config(hf.SiglipVisionConfig),
        text_config=text_config(hf.Qwen2Config),
        image_token_index=IMAGE,
        video_token_index=6,
        image_grid_pinpoints=PINPOINTS,
    )
    model = _ready(hf.LlavaOnevisionForConditionalGeneration(config), implementation)
    sizes = torch.tensor([[60, 50], [32, 64], [64, 64]])
    inputs = {
        "pixel_values": noise(3, 5, 3, 32, 32),
        "image_sizes": sizes,
        "batch_num_images": torch.tensor([1, 1, 1]),
    }
    return _tiled(model, inputs)


def internvl(implementation: str) -> Case:
    config = hf.InternVLConfig(
        vision_config=vision_config(hf.InternVLVisionConfig, image_size=[64, 64], patch_size=[8, 8]),
        text_config=text_config(hf.Qwen2Config),
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    model = _ready(hf.InternVLForConditionalGeneration(config), implementation)
    return Case(model, prompts([[32, 16], [16]]) | {"pixel_values": noise(4, 3, 64, 64)})


def _qwen(model: Any, patch: int, thw: Tensor, implementation: str) -> Case:
    sizes = (thw.prod(1) // 4).tolist()
    inputs: dict[str, Any] = prompts([sizes[:2], sizes[2:]])
    inputs["pixel_values"] = noise(int(thw.prod(1).sum()), 3 * 2 * patch * patch)
    inputs["image_grid_thw"] = thw
    if "mm_token_type_ids" in inspect.signature(type(model).forward).parameters:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return Case(_ready(model, implementation), inputs)


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
        video_token_id=6,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return _qwen(hf.Qwen2_5_VLForConditionalGeneration(config), 14, THW, implementation)


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
        video_token_id=6,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return _qwen(hf.Qwen3VLForConditionalGeneration(config), 16, THW, implementation)


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
    return Case(_ready(made, implementation), inputs)


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
    return Case(_ready(hf.Gemma3ForConditionalGeneration(config), implementation), inputs)


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
    return Case(_ready(hf.PaliGemmaForConditionalGeneration(config), implementation), inputs)


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
