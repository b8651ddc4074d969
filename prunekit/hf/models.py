"""A model with its processor from the testbed, a folder or the hub, and prompts in the form it wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from PIL.Image import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import logging

from prunekit.errors import PrunekitError, UnknownName, UnsupportedModel, nearest
from prunekit.hf.places import visual_token_ids
from prunekit.hf.random_models import PREFIX, RANDOM, random_model, random_processor
from prunekit.hf.shape import Shape
from prunekit.testbed import CHECKPOINT

TESTBED = "testbed"
"""The name of the small model that is shipped with prunekit."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that sees, and what prepares its inputs.

    Attributes:
        model: In evaluation mode.
        processor: Makes its inputs from images and texts.
        name: What it was loaded by: `testbed`, a random model, a folder as it was given, or a hub id.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str


def silence() -> None:
    """Turns off transformers' own notes and progress bars, in this process."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load(
    name: str | PathLike[str], *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> LoadedModel:
    """Loads a vision-language model.

    Code that comes with a model is not run.

    Args:
        name: `testbed`, a model with random weights (`random-llava-tiny`, `-small`, `-7b`), a local
            folder, or the id of a model on the Hugging Face hub. Only the last looks for the network, and
            not if the model is in the local cache.
        device: Where to put it; by default on a GPU where there is one.
        dtype: Its precision; by default float32 on a CPU and its own on a GPU. Random models always have
            their own.

    Raises:
        UnsupportedModel: It is no vision-language model that transformers knows.
        UnknownName: There is no such random model.
        PrunekitError: It is not there, or cannot be reached.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if (random := _random(name)) is not None:
        return LoadedModel(random_model(random, place, dtype), random_processor(), random)
    source, local = _source(name)
    settings: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    config = _checked_config(source, settings)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            source,
            config=config,
            dtype=dtype or (torch.float32 if place.type == "cpu" else "auto"),
            **settings,
        )
        processor = AutoProcessor.from_pretrained(source, **settings)
    except (OSError, ValueError, ImportError) as error:
        raise PrunekitError(f"{source} cannot be loaded: {error}") from error
    moved = cast(torch.nn.Module, model).to(place).eval()
    return LoadedModel(cast(PreTrainedModel, moved), processor, str(name))


def decoder_shape(name: str | PathLike[str]) -> Shape:
    """The sizes of a model's decoder, from its configuration alone: no weights are read.

    Raises:
        UnsupportedModel: It is no vision-language model that transformers knows.
        UnknownName: There is no such random model.
        PrunekitError: It is not there, or cannot be reached.
    """
    if (random := _random(name)) is not None:
        config: Any = RANDOM[random].config
    else:
        source, local = _source(name)
        config = _checked_config(source, {"local_files_only": local, "trust_remote_code": False})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return Shape.read(cast(Any, model).get_decoder())


def prompt_inputs(
    processor: ProcessorMixin, images: Sequence[Image | Sequence[Image]], texts: Sequence[str]
) -> BatchFeature:
    """The inputs of a batch of prompts, one row for each text, padded on the left.

    Where the processor has a chat template, each text is what the user says after the images; otherwise
    the image token is put before a text that does not hold it.

    Args:
        processor: The model's.
        images: For each text its image, or its images.
        texts: What to ask.

    Returns:
        Tensors for `model(**inputs)` and `model.generate(**inputs)`.

    Raises:
        PrunekitError: There are not as many texts as images, or no word of how an image is marked.
    """
    if len(images) != len(texts):
        raise PrunekitError(f"Each text needs its image or images; got {len(images)} for {len(texts)} texts.")
    shown = [[each] if isinstance(each, Image) else list(each) for each in images]
    prompts = [_prompt(processor, text, len(row)) for text, row in zip(texts, shown, strict=True)]
    call = cast(Any, processor)
    try:
        return call(
            text=prompts,
            images=shown if any(shown) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
    except ValueError as error:
        raise PrunekitError(f"The processor cannot make inputs of these prompts: {error}") from error


def _random(name: str | PathLike[str]) -> str | None:
    """The name of a model with random weights; None for any other's.

    Raises:
        UnknownName: There is no such random model.
    """
    if not isinstance(name, str) or not name.startswith(PREFIX) or Path(name).is_dir():
        return None
    if name not in RANDOM:
        raise UnknownName(f"There is no random model {name!r}. {nearest(name, RANDOM)}")
    return name


def _source(name: str | PathLike[str]) -> tuple[str, bool]:
    """Where to load from, and whether that is on this machine."""
    if name == TESTBED:
        if not CHECKPOINT.is_dir():
            raise PrunekitError(f"The testbed model is missing from this installation ({CHECKPOINT}).")
        return str(CHECKPOINT), True
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), True
    if not isinstance(name, str) or name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise PrunekitError(f"There is no folder {folder}.")
    return name, False


def _checked_config(source: str, settings: dict[str, Any]) -> Any:
    try:
        config = AutoConfig.from_pretrained(source, **settings)
    except (OSError, ValueError) as error:
        where = "" if settings["local_files_only"] else " on this machine or the hub; is there a network?"
        raise PrunekitError(f"{source} is no model that transformers can read{where}\n{error}") from error
    if type(config) not in AutoModelForImageTextToText._model_mapping or not visual_token_ids(config):
        raise UnsupportedModel(
            f"{source} ({config.model_type}) is no vision-language model with visual tokens in its prompt."
        )
    return config


def _prompt(processor: Any, text: str, images: int) -> str:
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        chat = [{"role": "user", "content": content}]
        return processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    mark = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)
    if mark is None:
        raise PrunekitError(
            f"{type(processor).__name__} has neither a chat template nor an image token. Make the inputs "
            "with the processor itself."
        )
    mark = str(mark)
    return text if mark in text else f"{mark * images}{text}"
