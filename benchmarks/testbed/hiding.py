"""Two bounds on pruning: keep the target's tokens and others at random, or random ones only.

Hiding a token from every later layer is the same as removing it there, at no saving: a slow
and independent reference that needs none of the library's pruning.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.testbed.answering import BATCH, Asked, Model, Processor, answers, prepare
from prunekit.testbed import GRID, grade


def located(
    model: Model,
    processor: Processor,
    questions: Sequence[Asked],
    *,
    layers: int,
    share: float,
    oracle: bool,
) -> float:
    """Return the share of `where` questions answered right with few visual tokens.

    Args:
        model: The model.
        processor: Its processor.
        questions: Questions of kind `where`.
        layers: Layers that still see every token.
        share: Share of visual tokens later layers see, in (0, 1].
        oracle: Whether tokens that the target's box touches are kept before others.

    Returns:
        Accuracy at IoU 0.5, in [0, 1].
    """
    rng = np.random.default_rng(0)
    right = 0
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        kept = torch.stack([_kept(rng, asked, share, oracle) for asked in batch])
        inputs = prepare(processor, batch)
        seen = inputs["attention_mask"].bool()
        seen[inputs["input_ids"] == model.config.image_token_id] = kept.flatten()
        with _hiding(model, seen, layers):
            for asked, text in answers(model, processor, batch, use_cache=False):
                right += grade(asked.question, text).correct
    return right / len(questions)


def _kept(rng: np.random.Generator, asked: Asked, share: float, oracle: bool) -> Tensor:
    """Choose visual tokens: (GRID * GRID,), True for kept."""
    order = rng.random(GRID * GRID)
    if oracle and asked.question.box is not None:
        order[list(asked.question.box.tokens())] -= 1
    kept = torch.zeros(GRID * GRID, dtype=torch.bool)
    kept[torch.from_numpy(order.argsort()[: round(share * GRID * GRID)])] = True
    return kept


@contextmanager
def _hiding(model: Model, seen: Tensor, layers: int) -> Generator[None]:
    """Show layers from `layers` on only the prompt tokens in `seen` (batch, prompt)."""

    def narrow(
        _module: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs["hidden_states"]
        return args, kwargs | {"attention_mask": _mask(seen, hidden.shape[1])}

    later = model.model.language_model.layers[layers:]
    hooks = [layer.register_forward_pre_hook(narrow, with_kwargs=True) for layer in later]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mask(seen: Tensor, length: int) -> Tensor:
    """What to add to attention logits, (batch, 1, length, length); new tokens are all seen."""
    new = torch.ones(len(seen), length - seen.shape[1], dtype=torch.bool)
    columns = torch.cat([seen, new], dim=1)[:, None, None]
    allowed = (columns | torch.eye(length, dtype=torch.bool)).tril()
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
