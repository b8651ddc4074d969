"""How much a token counts where several become one."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit import Selection, Signal, Sizes, TokenBatch

Weight: TypeAlias = Literal["equal", "score", "size"]

WHAT = "How much a token counts: as much as any, as its score says, or as many tokens as it stands for."
RULE = (
    "What a representative becomes: the weighted mean of itself and the others, itself and their mean, "
    "itself and their weighted sum, or the weighted sum of all."
)


def signals_of(weight: Weight) -> frozenset[Signal]:
    """What must be captured to weigh tokens so."""
    return frozenset[Signal]({Sizes()} if weight == "size" else ())


def weights_of(tokens: TokenBatch, selection: Selection, weight: Weight) -> Float[Tensor, "batch tokens"]:
    """A weight for each token, in float32; what is below 0 or no finite number counts nothing."""
    if weight == "equal":
        return torch.ones(tokens.present.shape, device=tokens.present.device)
    values = selection.scores if weight == "score" else tokens.signal(Sizes())
    return values.float().nan_to_num(0, 0, 0).clamp(min=0)
