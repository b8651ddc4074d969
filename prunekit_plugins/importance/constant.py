"""No importance at all: every token is worth the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from prunekit import ImportanceScorer, Scores, Stage, TokenBatch, hookimpl


class Constant(ImportanceScorer):
    """Scores every token 1, so that other stages alone decide; ties fall to the lowest index."""

    use: Literal["constant"] = "constant"

    def __call__(self, tokens: TokenBatch) -> Scores:
        return torch.ones(tokens.present.shape, device=tokens.present.device)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Constant]
