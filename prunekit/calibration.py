"""Calibration: a model reads many images with one generic prompt, and the mean of its scores is the prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prunekit.errors import ConfigError
from prunekit.pipeline import Pipeline
from prunekit.prior import Prior
from prunekit.tokens import Selection

if TYPE_CHECKING:
    from PIL.Image import Image

    from prunekit.hf import LoadedModel

GENERIC_PROMPT = "Please describe the provided image."
SAVE_EVERY = 50


def calibrate(
    loaded: LoadedModel,
    images: Sequence[Callable[[], Image]],
    pipeline: Pipeline,
    *,
    prompt: str = GENERIC_PROMPT,
    unfinished: Path | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Prior:
    """The mean of the pipeline's importance scores over images; nothing is pruned on the way.

    Args:
        loaded: The model and its processor.
        images: Opens one image each, when its turn comes.
        pipeline: Its importance stage scores, at its layer; its other stages play no role.
        prompt: The generic prompt asked about every image.
        unfinished: Where to keep what is measured so far. What lies there is continued, if it was measured in
            the same way and on the first of these images, and removed at the end.
        track: Wraps the numbers of the images still to read, for a progress bar.

    Raises:
        ConfigError: There are no images, or `unfinished` holds something else.
        PrunekitError: The model cannot be pruned.
    """
    if not images:
        raise ConfigError("Calibration needs images, and there are none.")
    scorer = pipeline.swap(bias=None, graph=None, select="top_k", merge=None, budget=1.0)
    prior = Prior.load(unfinished) if unfinished is not None and unfinished.is_file() else None
    layer = pipeline.at.layer
    how = (loaded.name, layer, prompt, pipeline.importance.model_dump_json())
    if prior is not None and prior.how != how:
        raise ConfigError(f"{str(unfinished)!r} was not measured alike: {prior.how}, and this is {how}.")
    turns = iter(track(range(prior.images if prior else 0, len(images))))
    while batch := list(islice(turns, SAVE_EVERY)):
        scored = (_scored(loaded, scorer, images[number](), prompt) for number in batch)
        newest = Prior.measured((selection for each in scored for selection in each), *how)
        prior = prior.merged(newest) if prior else newest
        if unfinished is not None:
            prior.save(unfinished)
    if prior is None or prior.images != len(images):
        raise ConfigError(
            f"{str(unfinished)!r} holds a measurement of other images than these {len(images)}; remove it to "
            "start anew."
        )
    if unfinished is not None:
        unfinished.unlink(missing_ok=True)
    return prior


def _scored(loaded: LoadedModel, scorer: Pipeline, image: Image, prompt: str) -> list[Selection]:
    from prunekit import hf

    inputs = hf.prompt_inputs(loaded.processor, [image], [prompt]).to(loaded.model.device)
    with torch.inference_mode(), scorer.attach(loaded.model) as pruning:
        loaded.model(**inputs, logits_to_keep=1)
    return pruning.selections
