"""A family of models: how its images lie, and how its videos do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunekit.hf.grids import GenericAdapter, Grid, Picture, Runs, deal
from prunekit.hf.question import Tail

VICUNA: Tail = (319, 1799, 9047, 13566, 29901)
""" ASSISTANT: by the tokenizer of Llama and Llama 2."""

MISTRAL: Tail = (733, 28748, 16289, 28793)
""" [/INST] by the tokenizer of Mistral 7B."""

TEKKEN: Tail = (4,)
"""[/INST] by the tokenizer of later models of Mistral, a token of its own."""

Layout = Callable[[Mapping[str, Any], Any], Iterable[Picture]]
"""From the arguments of a forward and the configuration to the pictures of the prompt, in order.

A sequence holds each of them and is empty where the arguments do not tell; an endless iterator says what
every picture looks like, however many there are."""


def nothing(inputs: Mapping[str, Any], config: Any) -> Iterable[Picture]:
    """The layout of what a family does not know."""
    del inputs, config
    return ()


def image_sizes(inputs: Mapping[str, Any]) -> list[list[int]]:
    """Height and width of each image in pixels, for processors that hand them over; else none."""
    sizes = inputs.get("image_sizes")
    return [] if sizes is None else torch.as_tensor(sizes).tolist()


@dataclass(frozen=True, slots=True)
class Family:
    """An adapter made of facts. Where they do not fit a prompt, the generic rule guesses.

    Attributes:
        names: The `model_type` of its models, or of their vision tower.
        images: How its images lie.
        videos: How its videos lie, where they have tokens of their own.
        tails: What its templates put behind a question, by token ids, where no end of a turn does.
    """

    names: frozenset[str]
    images: Layout
    videos: Layout = nothing
    tails: Sequence[Tail] = ()

    def fits(self, config: Any) -> bool:
        """Whether the model, or its vision tower, is of this family."""
        parts = (config, getattr(config, "vision_config", None))
        return any(getattr(part, "model_type", None) in self.names for part in parts)

    def grids(self, runs: Runs, inputs: Mapping[str, Any], config: Any) -> Sequence[Sequence[Grid]]:
        """See `Adapter.grids`."""
        dealt = deal(runs, inputs, config, self.images(inputs, config), self.videos(inputs, config))
        return GenericAdapter().grids(runs, inputs, config) if dealt is None else dealt
