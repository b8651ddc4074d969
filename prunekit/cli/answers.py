"""What a model answers: many prompts at once, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from transformers import BatchFeature

    from prunekit.hf import LoadedModel


def load_quietly(name: str) -> LoadedModel:
    """The model and its processor, without transformers' own chatter on the way.

    Raises:
        PrunekitError: It cannot be loaded, and why.
    """
    from prunekit import hf

    hf.silence()
    return hf.load(name)


def model_inputs(loaded: LoadedModel, images: Sequence[Image.Image], prompts: Sequence[str]) -> BatchFeature:
    """One row a prompt, each with its image, on the model's device."""
    from prunekit import hf

    inputs = hf.prompt_inputs(loaded.processor, images, prompts)
    return inputs.to(loaded.model.device)


def answers(loaded: LoadedModel, inputs: BatchFeature, max_new_tokens: int) -> list[str]:
    """The greedy continuation of each row, as text."""
    import torch

    with torch.inference_mode():
        output = loaded.model.generate(  # pyright: ignore[reportCallIssue]
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
    prompt_length = inputs["input_ids"].shape[1]
    decoded = loaded.processor.batch_decode(output[:, prompt_length:], skip_special_tokens=True)
    return [text.strip() for text in decoded]


def seen_by_model(loaded: LoadedModel, inputs: BatchFeature) -> Image.Image | None:
    """The picture as the processor hands it over: resized, cropped, padded; None where it is cut up."""
    import torch

    pixels = inputs.get("pixel_values")
    images = getattr(loaded.processor, "image_processor", None)
    if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4 or len(pixels) != 1 or images is None:
        return None
    scales = bool(getattr(images, "do_normalize", True))
    mean = torch.tensor((getattr(images, "image_mean", None) if scales else None) or 0.0)
    std = torch.tensor((getattr(images, "image_std", None) if scales else None) or 1.0)
    colours = pixels[0].float().cpu() * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    return Image.fromarray((255 * colours.clamp(0, 1)).byte().permute(1, 2, 0).numpy())
