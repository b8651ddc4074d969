"""A testbed small enough to ship: pictures, questions, and a model that can answer them.

`scenes` makes pictures of coloured shapes on busy backgrounds, each with six questions that
have one right answer; `grade` marks what a model answered; `CHECKPOINT` is the folder of a
genuine LLaVA model of 1.5 M parameters, trained on such scenes, which loads like any other
local model:

    from transformers import AutoModelForImageTextToText, AutoProcessor
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT)
    processor = AutoProcessor.from_pretrained(CHECKPOINT)

Importing this package needs NumPy and Pillow only.
"""

from pathlib import Path

from prunekit.testbed.drawing import Difficulty
from prunekit.testbed.objects import COLOURS, GRID, PATCH, SHAPES, SIDE, SIZES, Box, Object
from prunekit.testbed.questions import (
    CONTENT_FREE,
    COORDINATES,
    WORDS,
    Grade,
    Question,
    grade,
)
from prunekit.testbed.scenes import Scene, scene, scenes

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the shipped model, tokenizer and processor."""

__all__ = [
    "CHECKPOINT",
    "COLOURS",
    "CONTENT_FREE",
    "COORDINATES",
    "GRID",
    "PATCH",
    "SHAPES",
    "SIDE",
    "SIZES",
    "WORDS",
    "Box",
    "Difficulty",
    "Grade",
    "Object",
    "Question",
    "Scene",
    "grade",
    "scene",
    "scenes",
]
