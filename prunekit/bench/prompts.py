"""A prompt of about so many visual tokens, for any model: images of noise, and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from prunekit.errors import ConfigError
from prunekit.hf.models import prompt_inputs
from prunekit.hf.places import is_visual, visual_token_ids

if TYPE_CHECKING:
    from transformers import BatchFeature

    from prunekit.hf import LoadedModel

SIDE = 672
"""Of an image in pixels, before the processor has its way: 576 tokens for LLaVA-1.5 and for Qwen2.5-VL."""

WORD = "what"


def prompt_of(loaded: LoadedModel, visual: int, text: int) -> BatchFeature:
    """One row with as many images as come nearest to so many visual tokens, then about so many others.

    Args:
        loaded: A model and its processor.
        visual: Visual tokens to come near to; at least one image is there.
        text: Other tokens, the marks around images among them. Exact where a word is a token.

    Raises:
        ConfigError: An image becomes no visual token in this prompt.
    """
    alone, own = _counted(loaded, 1, 1)
    if not alone:
        raise ConfigError(f"{loaded.name}: an image has no visual tokens in the prompt.")
    images = max(round(visual / alone), 1)
    _, own = _counted(loaded, images, 1)
    return _inputs(loaded, images, max(text - own + 1, 1))


def _counted(loaded: LoadedModel, images: int, words: int) -> tuple[int, int]:
    """Visual tokens and others of such a prompt."""
    ids = _inputs(loaded, images, words)["input_ids"]
    visual = int(is_visual(ids, visual_token_ids(loaded.model.config)).sum())
    return visual, ids.numel() - visual


def _inputs(loaded: LoadedModel, images: int, words: int) -> BatchFeature:
    draw = np.random.default_rng(0)
    shown = [Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(images)]
    inputs = prompt_inputs(loaded.processor, [shown], [" ".join([WORD] * words)])
    return inputs.to(loaded.model.device)
