"""Asking the checkpoint questions through plain `generate`, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
)

from prunekit.testbed import Question, Scene

Model: TypeAlias = Any
"""A `LlavaForConditionalGeneration`, whose types are known in parts only."""

Processor: TypeAlias = Any
"""A `LlavaProcessor`, likewise."""


BATCH = 32
"""Questions in a batch."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one scene.

    Attributes:
        index: Position of the scene in its set.
        scene: The scene.
        question: One of its questions.
    """

    index: int
    scene: Scene
    question: Question


def load(folder: Path) -> tuple[Model, Processor]:
    """Load model (float32, ready to answer) and processor, from a local folder only."""
    model: Model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    processor: Processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval(), processor


def all_questions(scenes: Sequence[Scene]) -> list[Asked]:
    """List every question of every scene."""
    return [
        Asked(index, scene, question) for index, scene in enumerate(scenes) for question in scene.questions
    ]


def prepare(processor: Processor, batch: Sequence[Asked]) -> BatchFeature:
    """Turn questions into model inputs, through the chat template, padded on the left."""
    prompts = [
        processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": asked.question.text}],
                }
            ],
            add_generation_prompt=True,
        )
        for asked in batch
    ]
    images = [asked.scene.image for asked in batch]
    return processor(text=prompts, images=images, padding=True, return_tensors="pt")


@torch.inference_mode()
def answers(
    model: Model,
    processor: Processor,
    questions: Iterable[Asked],
    **options: Any,
) -> Iterator[tuple[Asked, str]]:
    """Answer questions greedily.

    Args:
        model: The model.
        processor: Its processor.
        questions: What to ask.
        **options: For `generate`.

    Yields:
        Each question with the decoded answer, in order.
    """
    stream = iter(questions)
    while batch := list(islice(stream, BATCH)):
        inputs = prepare(processor, batch)
        output = model.generate(**inputs, **options)
        new = output[:, inputs["input_ids"].shape[1] :]
        yield from zip(batch, processor.batch_decode(new, skip_special_tokens=True), strict=True)
