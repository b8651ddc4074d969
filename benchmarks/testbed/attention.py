"""Where the last word of a question looks, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.testbed.answering import BATCH, Asked, Model, Processor, prepare
from prunekit.testbed import GRID


@dataclass(frozen=True, slots=True)
class Gaze:
    """What one layer looks at from the last token of a `where` question, on average.

    Attributes:
        layer: Index of the layer, from 0; pruning after `layer + 1` layers can use it.
        image: Share of attention on visual tokens, per head, in [0, 1].
        target: Share of *that* on tokens the target's box touches, per head, in [0, 1].
        variation: Coefficient of variation of the mean map over visual tokens (heads
            averaged): 0 if no position is favoured.
        peak: Greatest over mean value of that map.
    """

    layer: int
    image: list[float]
    target: list[float]
    variation: float
    peak: float


@torch.inference_mode()
def gazes(model: Model, processor: Processor, questions: Sequence[Asked]) -> tuple[list[Gaze], float]:
    """Measure attention on `where` questions.

    Args:
        model: The model; left with its own attention implementation.
        processor: Its processor.
        questions: Questions of kind `where`.

    Returns:
        One entry a layer, and the share of visual tokens the targets touch: what `target`
        would be for attention that is spread evenly.
    """
    before = model.config.text_config._attn_implementation
    model.model.language_model.set_attn_implementation("eager")
    starts = range(0, len(questions), BATCH)
    maps = torch.cat([_maps(model, processor, questions[at : at + BATCH]) for at in starts])
    model.model.language_model.set_attn_implementation(before)
    targets = torch.stack([_target(asked) for asked in questions])
    image = maps.sum(dim=-1)
    target = (maps * targets[:, None, None]).sum(dim=-1) / image
    mean_map = (maps.mean(dim=2) / maps.mean(dim=2).sum(dim=-1, keepdim=True)).mean(dim=0)
    table = [
        Gaze(
            layer,
            _rounded(image[:, layer].mean(dim=0)),
            _rounded(target[:, layer].mean(dim=0)),
            round((mean_map[layer].std() / mean_map[layer].mean()).item(), 3),
            round((mean_map[layer].max() / mean_map[layer].mean()).item(), 3),
        )
        for layer in range(maps.shape[1])
    ]
    return table, round(targets.mean().item(), 4)


def _maps(model: Model, processor: Processor, batch: Sequence[Asked]) -> Tensor:
    """Attention of the last token on visual tokens: (questions, layers, heads, tokens)."""
    inputs = prepare(processor, batch)
    attentions = model(**inputs, output_attentions=True, logits_to_keep=1).attentions
    last = torch.stack([layer[:, :, -1] for layer in attentions], dim=1)
    visual = inputs["input_ids"] == model.config.image_token_id
    return torch.stack([row[:, :, seen] for row, seen in zip(last, visual, strict=True)])


def _target(asked: Asked) -> Tensor:
    """1 for visual tokens that the target's box touches, else 0: (GRID * GRID,)."""
    touched = torch.zeros(GRID * GRID)
    if asked.question.box is not None:
        touched[list(asked.question.box.tokens())] = 1
    return touched


def _rounded(values: Tensor) -> list[float]:
    """A vector as a list with three digits."""
    return [round(value, 3) for value in values.tolist()]
