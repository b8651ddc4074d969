"""Greedy selectors after the matrix: what picking alone costs, ours beside published code's loop.

Both get the similarities of one sample ready made, and pick the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from prunekit.bench.naive import naive_coverage, naive_dpp, naive_max_min, naive_mmr
from prunekit.bench.references import ALPHA, BALANCE, Sample
from prunekit.kernels.coverage import coverage
from prunekit.kernels.dpp import dpp
from prunekit.kernels.engine import Engine
from prunekit.kernels.farthest import farthest
from prunekit.kernels.greedy import Task
from prunekit.kernels.likeness import Likeness

Call: TypeAlias = Callable[[], object]


def picking(case: str, sample: Sample, engine: Engine) -> tuple[Call, Call] | None:
    """Our picking and the published loop, on matrices that are there already; None for other cases."""
    return _PICKING[case](sample, engine) if case in _PICKING else None


def _dpp(sample: Sample, engine: Engine) -> tuple[Call, Call]:
    gram, kernel = sample.gram, sample.kernel
    alike, task, scores, relevance = (
        Likeness(gram[None]),
        _task(sample, engine),
        sample.scores,
        sample.relevance,
    )
    return (
        lambda: dpp(alike, task, scores=scores[None], relevance=relevance[None]),
        lambda: naive_dpp(kernel, sample.n),
    )


def _max_min(sample: Sample, engine: Engine) -> tuple[Call, Call]:
    gram, task = sample.gram, _task(sample, engine)
    return lambda: farthest(Likeness(gram[None]), task), lambda: naive_max_min(gram, sample.n)


def _mmr(sample: Sample, engine: Engine) -> tuple[Call, Call]:
    gram, task, worth = sample.gram, _task(sample, engine), sample.importance
    first, balanced = worth[None], BALANCE * worth[None]
    return (
        lambda: farthest(Likeness(gram[None]), task, first=first, worth=balanced, repulsion=1 - BALANCE),
        lambda: naive_mmr(gram, worth, sample.n, BALANCE),
    )


def _coverage(sample: Sample, engine: Engine) -> tuple[Call, Call]:
    gram, task, saliency = sample.gram, _task(sample, engine), sample.scores
    return (
        lambda: coverage(Likeness(gram[None]), task, weight=saliency[None] ** ALPHA),
        lambda: naive_coverage(gram, saliency, sample.n, ALPHA),
    )


_PICKING: MappingProxyType[str, Callable[[Sample, Engine], tuple[Call, Call]]] = MappingProxyType(
    {"dpp": _dpp, "max_min": _max_min, "mmr": _mmr, "coverage": _coverage}
)


def _task(sample: Sample, engine: Engine) -> Task:
    everyone = torch.ones(1, len(sample.scores), dtype=torch.bool, device=sample.scores.device)
    room: Tensor = torch.full((1,), sample.n, device=sample.scores.device)
    return Task(~everyone, everyone, room, sample.n, engine)
