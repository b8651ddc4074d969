"""The architecture, and a start that learns fast: whitened patches and waves for positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from benchmarks.testbed.processing import BOS, EOS, IMAGE, PAD, VOCABULARY
from prunekit.testbed import GRID, PATCH, SIDE

TOWER_WIDTH = 96
TEXT_WIDTH = 128


def build_config() -> LlavaConfig:
    """Describe a LLaVA of 1.5 M parameters with `GRID * GRID` visual tokens."""
    vision = SiglipVisionConfig(
        hidden_size=TOWER_WIDTH,
        intermediate_size=3 * TOWER_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=TEXT_WIDTH,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=VOCABULARY[PAD],
        bos_token_id=VOCABULARY[BOS],
        eos_token_id=VOCABULARY[EOS],
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCABULARY[IMAGE],
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )


def build_model() -> LlavaForConditionalGeneration:
    """Build the model with random weights from the global generator of torch."""
    model = LlavaForConditionalGeneration(build_config())
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=8,
        pad_token_id=VOCABULARY[PAD],
        bos_token_id=VOCABULARY[BOS],
        eos_token_id=VOCABULARY[EOS],
    )
    return model


@torch.no_grad()
def start_tower(model: LlavaForConditionalGeneration, pixels: Tensor) -> None:
    """Start the vision tower from whitened patches and sinusoidal positions.

    Args:
        model: The model; its patch and position embeddings are overwritten.
        pixels: Some training pictures, (count, 3, SIDE, SIDE), normalised.
    """
    embeddings = model.model.vision_tower.embeddings
    weight, bias = _whitening(pixels)
    embeddings.patch_embedding.weight.copy_(weight.view(TOWER_WIDTH, 3, PATCH, PATCH))
    embeddings.patch_embedding.bias.copy_(bias)
    embeddings.position_embedding.weight.copy_(0.3 * _waves() @ _rotation())


def _rotation() -> Tensor:
    """A random rotation of the tower's width."""
    return torch.linalg.qr(torch.randn(TOWER_WIDTH, TOWER_WIDTH)).Q


def _whitening(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias that turn patches into their leading, equally large components."""
    patches = functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    patches = patches[torch.randperm(len(patches))[:8000]]
    mean = patches.mean(dim=0)
    _, spread, directions = torch.linalg.svd(patches - mean, full_matrices=False)
    deviation = spread[:TOWER_WIDTH, None] / math.sqrt(len(patches))
    weight = _rotation() @ (0.7 * directions[:TOWER_WIDTH] / (deviation + 0.15))
    return weight, -weight @ mean


def _waves() -> Tensor:
    """Sines and cosines of row and column, (GRID * GRID, TOWER_WIDTH), half as many used."""
    line = torch.arange(GRID, dtype=torch.float32)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    pace = math.pi * torch.arange(1, GRID + 1) / GRID
    angles = [axis.flatten()[:, None] * pace for axis in (rows, columns)]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return functional.pad(waves, (0, TOWER_WIDTH - waves.shape[1]))
