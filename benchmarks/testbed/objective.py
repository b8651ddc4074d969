"""What training minimises: the answers, and a throw-away reading of every patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.testbed.lessons import IGNORED
from benchmarks.testbed.model import TOWER_WIDTH
from benchmarks.testbed.processing import EOS, VOCABULARY
from prunekit.testbed import COLOURS, COORDINATES, SHAPES, SIZES

CLASSES = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES))
"""Patch classes by shape, colour and size, background included."""

COORDINATE = VOCABULARY[COORDINATES[0]]
"""Token of the first coordinate word; the others follow it, and nothing else does."""

_SOFTNESS = 0.7
_END_WEIGHT = 0.1


def soft_targets() -> Tensor:
    """Return the target distribution of each coordinate: a bell with sigma 0.7 steps."""
    steps = torch.arange(len(COORDINATES), dtype=torch.float32)
    return torch.softmax(-((steps[:, None] - steps) ** 2) / (2 * _SOFTNESS**2), dim=1)


def answer_loss(
    hidden: Tensor, embeddings: Tensor, targets: Tensor, weights: Tensor, soft: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Compare predicted answers with the right ones.

    Args:
        hidden: Last hidden states (batch, questions, length, width).
        embeddings: Word embeddings (words, width), tied to the output.
        targets: (batch, questions, length), `IGNORED` where nothing is due.
        weights: Like `targets`.
        soft: From `soft_targets`.

    Returns:
        The loss (coordinates + words + 0.1 x the end of the answer), and for the log:
        `boxes`, the cross-entropy of coordinates against soft targets, in nats; `words`, that
        of other words; `near`, the share of coordinates within one step when all before are
        given; `right`, the share of other words right.
    """
    due = targets != IGNORED
    target, weight = targets[due], weights[due]
    guesses = (hidden[due].float() @ embeddings.T).log_softmax(dim=-1)
    loss = -guesses.gather(1, target[:, None])[:, 0]
    coordinate, end = target >= COORDINATE, target == VOCABULARY[EOS]
    word = ~coordinate & ~end
    boxes = -(soft[target[coordinate] - COORDINATE] * guesses[coordinate][:, COORDINATE:]).sum(-1).mean()
    words = (loss[word] * weight[word]).sum() / weight[word].sum()
    best = guesses.argmax(dim=-1)
    return boxes + words + _END_WEIGHT * loss[end].mean(), {
        "boxes": boxes.item(),
        "words": words.item(),
        "near": ((best - target)[coordinate].abs() <= 1).float().mean().item(),
        "right": (best == target)[word].float().mean().item(),
    }


class PatchReader(nn.Module):
    """A linear reading of shape, colour and size from every patch; not part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(TOWER_WIDTH)
        self.heads = nn.ModuleList(nn.Linear(TOWER_WIDTH, count) for count in CLASSES)

    def forward(self, features: Tensor, patches: Tensor) -> tuple[Tensor, list[float]]:
        """Return the loss, and the share of patches with things read right.

        Args:
            features: Tower features (batch, tokens, tower width).
            patches: Classes (batch, 3, tokens).

        Returns:
            Sum of the three mean cross-entropies, and three shares in [0, 1].
        """
        features = self.norm(features.float())
        loss = features.new_zeros(())
        shares: list[float] = []
        shown = patches[:, 0] > 0
        for index, head in enumerate(self.heads):
            guesses: Tensor = head(features)
            loss = loss + functional.cross_entropy(guesses.flatten(0, 1), patches[:, index].flatten())
            right = guesses.argmax(dim=-1) == patches[:, index]
            shares.append(right[shown].float().mean().item())
        return loss, shares
