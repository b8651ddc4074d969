"""Greedy kernels asked with choices, and the cosines that a slow loop looks at."""

import torch

from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness
from prunekit.measuring import Counting

ENGINES = ("host", "device")

DEGENERATE = {
    "constant": torch.ones(1, 40, 8),
    "zero": torch.zeros(1, 40, 8),
    "not a number": torch.full((1, 40, 8), torch.nan),
    "rank 3": torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0)),
    "two directions": torch.eye(8)[:2].repeat(20, 1)[None],
    "one sound token": torch.full((1, 40, 8), torch.nan).index_fill(1, torch.tensor([7]), 1.0),
}
"""Features that leave a selector nothing to go by."""


def asked(kernel, choice, engine, **named):
    """What a kernel adds to each sample, ascending, given no more of a bound than it needs."""
    counts = choice.kept.sum(-1) + choice.room
    eligible = choice.tokens.present & ~choice.kept
    task = Task(choice.kept, eligible, choice.room, int(counts.max()), engine)
    added = kernel(Likeness.of(choice.tokens.features), task, **named)
    return [sample.nonzero().flatten().tolist() for sample in added]


def cosines(features):
    """Everyone to everyone in one sample, in float64; zero and non-finite vectors are like nothing."""
    vectors = features.double()
    sound = vectors.isfinite().all(-1, keepdim=True) & (vectors != 0).any(-1, keepdim=True)
    vectors = torch.where(sound, vectors, 0)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return (vectors @ vectors.mT).tolist()


def cases(choice):
    """Of each sample: its cosines, who is kept, who may be taken, and how many."""
    eligible = choice.tokens.present & ~choice.kept
    for sample, room in enumerate(choice.room.tolist()):
        kept, free = (mask[sample].nonzero().flatten().tolist() for mask in (choice.kept, eligible))
        yield cosines(choice.tokens.features[sample]), kept, free, room


def best_first(scores):
    """A sorting key: by falling score, NaN last, ties by lowest index."""
    unknown, falling = scores.isnan().tolist(), (-scores.nan_to_num(0, torch.inf, -torch.inf)).tolist()
    return lambda token: (unknown[token], falling[token], token)


def without_kept(features, engine, kernel, room, **named):
    """The tokens a kernel takes from one full sample, of which none is kept."""
    full = torch.ones(features.shape[:2], dtype=torch.bool)
    task = Task(~full, full, torch.tensor([room]), room, engine)
    return kernel(Likeness.of(features), task, **named)[0].nonzero().flatten().tolist()


def reads(kernel, **named):
    """How often the device form reads a value, on two samples of 30 tokens with room for 4 and 7."""
    features, none = torch.randn(2, 30, 8), torch.zeros(2, 30, dtype=torch.bool)
    task = Task(none, ~none, torch.tensor([4, 7]), 7, "device")
    with Counting() as counted:
        kernel(Likeness.of(features), task, **named)
    return counted.syncs
