"""Training batches: pictures, packed questions, and which thing each patch shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from benchmarks.testbed.processing import EOS, UNKNOWN, build_tokenizer
from prunekit.testbed import COLOURS, GRID, PATCH, SHAPES, SIZES, Box, Difficulty, Object, Question
from prunekit.testbed.backgrounds import TRAINING_PHOTOGRAPHS
from prunekit.testbed.drawing import arrange, paint
from prunekit.testbed.questions import Kind, ask
from prunekit.testbed.scenes import generator

EARLIER: tuple[Kind, ...] = (
    *("where", "where", "where", "where", "where", "where"),
    *("colour", "shape", "count", "exists"),
)
"""Asked about every training picture at first."""

LATER: tuple[Kind, ...] = (
    *("where", "where", "where", "where"),
    *("colour", "shape", "count", "count", "exists", "exists"),
)
"""Asked from step `SHIFT` on, when places are mostly learnt."""

SHIFT = 700

SPARE: tuple[Kind, ...] = ("colour", "shape", "count", "gist")
"""Two more are drawn from these."""

LENGTH = 12
"""Tokens in one packed question with its answer, `<bos>` and image apart."""

IGNORED = -100
_LEAST_COVER = 0.25
_GIST_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Lesson:
    """One batch.

    Attributes:
        pixels: Normalised pictures, (batch, 3, SIDE, SIDE), in [-1, 1].
        patches: Class of each patch by shape, colour and size, (batch, 3, GRID * GRID);
            0 is background.
        tokens: Questions with answers, (batch, questions, LENGTH).
        targets: Next token where an answer is due, else `IGNORED`; like `tokens`.
        weights: Weight of each target in the loss; like `tokens`.
        places: Whether the thing to be found touches a visual token, (batch, questions,
            GRID * GRID); all False where a question asks for something else.
    """

    pixels: Tensor
    patches: Tensor
    tokens: Tensor
    targets: Tensor
    weights: Tensor
    places: Tensor


class Lessons(Dataset[Lesson]):
    """The batch of every step, from its number alone."""

    def __init__(self, size: int, steps: int, first_scene: int, growing: bool) -> None:
        """Describe a course.

        Args:
            size: Pictures in a batch.
            steps: Batches in the whole course.
            first_scene: Seed of the first training scene; the course uses the
                `size * steps` seeds from there on.
            growing: Whether difficulty rises to the standard in the first steps, and
                questions shift to `LATER` in the end.
        """
        self.size, self.steps, self.first_scene = size, steps, first_scene
        self.growing = growing
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Lesson:
        first = self.first_scene + index * self.size
        difficulty = self._difficulty(index)
        kinds = LATER if self.growing and index >= SHIFT else EARLIER
        pictures: list[NDArray[np.uint8]] = []
        patches: list[NDArray[np.int64]] = []
        questions: list[list[Question]] = []
        for seed in range(first, first + self.size):
            rng = generator(seed, "train")
            objects = arrange(rng, difficulty)
            pictures.append(paint(rng, objects, TRAINING_PHOTOGRAPHS))
            patches.append(patch_classes(objects))
            questions.append(_questions(rng, objects, kinds))
        tokens, targets, weights = self._written(questions, np.random.default_rng(first))
        return Lesson(normalise(pictures), _tensor(patches), tokens, targets, weights, _places(questions))

    def _difficulty(self, index: int) -> Difficulty:
        """Two or three things, mostly large, at first; the standard later."""
        if not self.growing:
            return Difficulty()
        progress = min(1.0, (index + 65) / 260)
        return Difficulty(
            least=2 + int(progress), most=3 + round(4 * progress), small_share=0.3 + 0.3 * progress
        )

    def _written(
        self, questions: list[list[Question]], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write questions and answers as tokens, targets and weights."""
        flat = [question for group in questions for question in group]
        prompts = self._encode([_perhaps_odd(question.text, rng) for question in flat])
        answers = self._encode([f"{question.answer}{EOS}" for question in flat])
        shape = (len(flat), LENGTH)
        tokens, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        weights = np.zeros(shape, np.float32)
        for row, (question, prompt, answer) in enumerate(zip(flat, prompts, answers, strict=True)):
            start = len(prompt) - 1
            end = start + len(answer)
            tokens[row, :end] = prompt + answer[:-1]
            targets[row, start:end] = answer
            weights[row, start:end] = _GIST_WEIGHT if question.kind == "gist" else 1.0
        packed = (len(questions), -1, LENGTH)
        return (
            torch.from_numpy(tokens).view(packed),
            torch.from_numpy(targets).view(packed),
            torch.from_numpy(weights).view(packed),
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenise without `<bos>`."""
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return cast("list[list[int]]", encoded)


def _perhaps_odd(text: str, rng: np.random.Generator) -> str:
    """Put an unknown word in front of one question in twenty, so that it does no harm."""
    return f"{UNKNOWN} {text}" if rng.random() < 0.05 else text


def _questions(
    rng: np.random.Generator, objects: tuple[Object, ...], kinds: tuple[Kind, ...]
) -> list[Question]:
    """Ask the fixed kinds and two more; what cannot be asked becomes a count."""
    spare: list[Kind] = [SPARE[int(rng.integers(len(SPARE)))] for _ in range(2)]
    asked = [ask(rng, objects, kind) or ask(rng, objects, "count") for kind in (*kinds, *spare)]
    return [question for question in asked if question is not None]


def _places(questions: list[list[Question]]) -> Tensor:
    """Mark the visual tokens of the thing each question asks for, if it asks for a place."""
    marks = torch.zeros(len(questions), len(questions[0]), GRID * GRID, dtype=torch.bool)
    for row, group in enumerate(questions):
        for column, question in enumerate(group):
            if question.box is not None:
                marks[row, column, list(question.box.tokens())] = True
    return marks


def patch_classes(objects: tuple[Object, ...]) -> NDArray[np.int64]:
    """Say what each patch shows, (3, GRID * GRID): the thing that covers most of it.

    Classes count from 1 in the order of `SHAPES`, `COLOURS` and `SIZES`; 0 is background.
    """
    classes = np.zeros((3, GRID * GRID), np.int64)
    cover = np.full(GRID * GRID, _LEAST_COVER)
    for thing in objects:
        names = (
            SHAPES.index(thing.shape) + 1,
            COLOURS.index(thing.colour) + 1,
            SIZES.index(thing.size) + 1,
        )
        for token in thing.box.tokens():
            share = _patch_box(token).overlap(thing.box) / PATCH**2
            if share > cover[token]:
                cover[token], classes[:, token] = share, names
    return classes


def _patch_box(token: int) -> Box:
    """The pixels of one visual token."""
    row, column = divmod(token, GRID)
    return Box(column * PATCH, row * PATCH, (column + 1) * PATCH, (row + 1) * PATCH)


def normalise(pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Stack pictures as the image processor would: (batch, 3, SIDE, SIDE) in [-1, 1]."""
    stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stack.float().div(127.5).sub(1.0).contiguous()


def _tensor(arrays: list[NDArray[np.int64]]) -> Tensor:
    """Stack integer arrays."""
    return torch.from_numpy(np.stack(arrays))
