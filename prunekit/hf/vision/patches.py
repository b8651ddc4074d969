"""What one layer of the tower says of each of its tokens, patches and class token alike."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit.hf.vision.tower import Wanted
from prunekit.kernels.attention import Attending, attention_rows, received_attention
from prunekit.signals import VisionKeys

Values = Float[Tensor, "images patches ..."]


def values_of(wanted: Wanted, attending: Attending, *, class_token: bool) -> Values:
    """The values of a signal, for every token of the tower.

    Args:
        wanted: The signal.
        attending: What its layer is about to compute.
        class_token: Whether the class token comes first.
    """
    if isinstance(wanted, VisionKeys):
        return attending.key.movedim(1, 2)
    if wanted.query == "cls" or (wanted.query == "auto" and class_token):
        first = torch.zeros(len(attending.query), 1, dtype=torch.long, device=attending.query.device)
        return attention_rows(attending, first)[:, :, 0].mT
    return received_attention(attending).mT
