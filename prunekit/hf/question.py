"""Which tokens of a prompt are the question: neither picture, nor system prompt, nor template."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

Tail = tuple[int, ...]
"""Token ids that a template puts between a question and its answer."""


@dataclass(frozen=True, slots=True)
class Template:
    """What is known of the text around a question, by token ids.

    Attributes:
        ends: What ends a turn.
        marks: What is no word: marks of pictures, of beginnings, of padding.
        tails: What templates without such an end put behind a question.
    """

    ends: Collection[int]
    marks: Collection[int]
    tails: Sequence[Tail] = ()

    @classmethod
    def of(cls, model: PreTrainedModel, tails: Sequence[Tail] = ()) -> Template:
        """What a model's configurations say of it."""
        generation: Any = model.generation_config
        configs = (model.config, model.config.get_text_config(), generation)
        named = [item for config in configs if config is not None for item in vars(config).items()]
        ends = {token for name, value in named if name == "eos_token_id" for token in _listed(value)}
        marks = {
            token
            for name, value in named
            if name.endswith(("_token_id", "_token_index"))
            for token in _listed(value)
        }
        return cls(ends, marks | ends, tails)

    def question(self, ids: Sequence[int], visual: Sequence[bool], real: Sequence[bool]) -> list[int]:
        """The columns of the question in one row.

        The text behind the last visual token up to the end of its turn; where there is none, as in templates
        that ask before they show, the text of the turn before the first visual token.
        """
        shown = [column for column, marked in enumerate(visual) if marked]
        words = [column for column, present in enumerate(real) if present and not visual[column]]
        if not shown:
            return self._words(ids, self._turn(ids, words))
        behind = [column for column in words if column > shown[-1]]
        before = [column for column in words if column < shown[0]]
        found = self._words(ids, self._turn(ids, self._without_tail(ids, behind)))
        return found or self._words(ids, self._turn(ids, before[::-1])[::-1])

    def _without_tail(self, ids: Sequence[int], columns: list[int]) -> list[int]:
        told = tuple(ids[column] for column in columns)
        tail = next((tail for tail in self.tails if tail and told[-len(tail) :] == tail), ())
        return columns[: len(columns) - len(tail)]

    def _turn(self, ids: Sequence[int], columns: Iterable[int]) -> list[int]:
        """Those up to the first end of a turn."""
        found: list[int] = []
        for column in columns:
            if ids[column] in self.ends:
                break
            found.append(column)
        return found

    def _words(self, ids: Sequence[int], columns: Iterable[int]) -> list[int]:
        return [column for column in columns if ids[column] not in self.marks]


def question_columns(
    template: Template,
    ids: Int[Tensor, "batch length"] | None,
    visual: Bool[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
) -> tuple[Int[Tensor, "batch texts"], Bool[Tensor, "batch texts"]]:
    """The columns of each row's question, ascending, and which of them count. Reads the prompt on the host.

    Without ids, for prompts given as embeddings, nothing is known of the template.
    """
    told = torch.full(visual.shape, -1) if ids is None else ids
    rows = zip(told.tolist(), visual.tolist(), real.tolist(), strict=True)
    found = [template.question(*row) for row in rows]
    most = max(map(len, found), default=0)
    columns = [row + [0] * (most - len(row)) for row in found]
    counted = [[True] * len(row) + [False] * (most - len(row)) for row in found]
    return (
        torch.tensor(columns, dtype=torch.long, device=visual.device).view(len(found), most),
        torch.tensor(counted, dtype=torch.bool, device=visual.device).view(len(found), most),
    )


def _listed(value: object) -> list[int]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]  # pyright: ignore
