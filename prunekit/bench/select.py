"""Selection measured: a whole pipeline call beside the matrix it avoids, the textbook, and published code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit.bench.features import Size, made_up
from prunekit.bench.picking import picking
from prunekit.bench.references import ABOVE, ALPHA, BALANCE, Chosen, Sample, dense, naive
from prunekit.files import load
from prunekit.kernels.cosine import unit
from prunekit.kernels.engine import Engine, engine_for
from prunekit.measuring import Counting, median_ms
from prunekit.pipeline import Pipeline
from prunekit.tokens import Selection, TokenBatch

NEAR = {"use": "grid", "falloff": "radius", "radius": 1}
ALIKE = {"use": "cosine", "above": ABOVE}

CASES: MappingProxyType[str, dict[str, Any]] = MappingProxyType({
    "d2pruner": {},
    "d2pruner-grounding": {},
    "mis-and": {"graph": {"use": "all_of", "of": [NEAR, ALIKE]}, "select": "mis"},
    "mis-or": {"graph": {"use": "any_of", "of": [NEAR, ALIKE]}, "select": "mis"},
    "dpp": {"select": {"use": "dpp", "relevance": "min_max"}},
    "max_min": {"select": {"use": "max_min", "start": "farthest"}},
    "mmr": {"select": {"use": "mmr", "balance": BALANCE}},
    "coverage": {"select": {"use": "coverage", "alpha": ALPHA}},
})  # fmt: skip
"""What is measured: shipped pipelines, and pipelines that differ from FastV in these blocks."""

GREEDY = ("dpp", "max_min", "mmr", "coverage")
"""The cases that compare all pairs by definition."""

WHOLE_GRAM, GRAM_ROWS, GRAM_ENTRIES = 4096, 256, 2**27
"""Of more tokens than this the Gram matrix is multiplied for so many rows only, which stand for all; and for
no more samples at once than have so many entries."""

REFERENCE_WORK, OUR_WORK, MEMORY = 1e11, 1e12, 2**31
"""On the CPU no reference runs that needs more multiplications, no selector that compares all pairs and needs
more, and nothing on features of more bytes; where there is an accelerator, the hundred- and the fourfold."""

PATIENCE = 1.5
"""Seconds after which no further round of a measurement starts."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row to be: a case on tokens of a shape, with a budget."""

    case: str
    shape: Size
    budget: int | float

    @property
    def work(self) -> float:
        """About how many multiplications a reference needs for it."""
        tokens, keep = self.shape.tokens, self.budget
        n = min(keep, tokens) if isinstance(keep, int) else keep * tokens
        steps = n * tokens**2 if self.case == "coverage" else n**2 * tokens if self.case in GREEDY else 0
        return self.shape.batch * (tokens**2 * self.shape.dim + 4 * steps)

    def bearable(self, device: torch.device) -> bool:
        """Whether it can be measured in the memory and the time one has."""
        memory, work = (MEMORY, OUR_WORK) if device.type == "cpu" else (4 * MEMORY, 100 * OUR_WORK)
        return self.shape.bytes <= memory and (self.case not in GREEDY or self.work <= work)

    def comparable(self, device: torch.device) -> bool:
        """Whether the references can be run beside it."""
        return self.work <= REFERENCE_WORK * (1 if device.type == "cpu" else 100)


@dataclass(frozen=True, slots=True)
class Row:
    """What one problem cost, all in one run.

    Medians in milliseconds for the whole batch: `ours_ms` for the pipeline call from tokens to a settled
    selection, `gram_ms` for the cosine matrix alone, `dense_ms` and `naive_ms` for the references, from
    features to chosen tokens; None where they would take too long. For selectors that compare all pairs,
    `picking_ms` and `naive_picking_ms` are our loop and the published one alone, after the matrix, for one
    sample.

    `ops` and `syncs` are those of the device form, which is what an accelerator launches and waits for,
    before settling, which is one read more; `exact` says whether that was exact by then, or would be made
    again on the host. `peak_mb` (10⁶ bytes) and `reads`, what the host looked at, are those of the engine
    that was timed. `same` says whether the textbook keeps the same tokens; None where it was not run, or
    where rounding alone decides what it keeps.
    """

    case: str
    features: str
    tokens: int
    dim: int
    batch: int
    budget: int | float
    keep: int
    device: str
    engine: Engine
    ours_ms: float
    gram_ms: float
    gram_extrapolated: bool
    dense_ms: float | None
    naive_ms: float | None
    picking_ms: float | None
    naive_picking_ms: float | None
    ops: int
    syncs: int
    reads: int
    peak_mb: float
    exact: bool
    same: bool | None


def pipeline_for(case: str, budget: int | float, prior: Path) -> Pipeline:
    """The pipeline that a case measures; `prior` is the file of its measured bias, where it has one.

    Raises:
        UnknownName: There is no such case.
        ConfigError: A stage it needs is not installed.
    """
    if case.startswith("d2pruner"):
        return load(case).swap(bias={"use": "measured", "prior": str(prior)}, budget=budget)
    return load("fastv").swap(**CASES[case], name=case, budget=budget)


def measured(
    problems: Iterable[Problem], prior: Path, device: torch.device, engine: Engine | None = None
) -> Iterator[Row]:
    """A row for each problem; problems of one shape, one after another, share their tokens."""
    for shape, group in groupby(problems, key=lambda problem: problem.shape):
        tokens = made_up(shape, device)
        for problem in group:
            pipeline = pipeline_for(problem.case, problem.budget, prior)
            yield _row(problem, tokens, pipeline, engine or engine_for(device))


def _row(problem: Problem, tokens: TokenBatch, pipeline: Pipeline, engine: Engine) -> Row:
    case, shape, device = problem.case, problem.shape, tokens.features.device
    selection = pipeline(tokens, engine).settled()
    samples = _samples(tokens, selection)
    gram, times = _gram(tokens.features)
    ours_ms, gram_ms = median_ms(
        lambda: pipeline(tokens, engine).settled(), gram, device=device, patience=PATIENCE
    )
    with Counting(device) as counted:
        pipeline(tokens, engine)
    launched = _launched(pipeline, tokens)
    dense_ms = naive_ms = picking_ms = naive_picking_ms = same = None
    if problem.comparable(device):
        picks = picking(case, samples[0], engine)
        if picks is not None:
            picking_ms, naive_picking_ms = median_ms(*picks, device=device, patience=PATIENCE)
        dense_ms, naive_ms = median_ms(
            lambda: [dense(case, sample) for sample in samples],
            lambda: [naive(case, sample) for sample in samples],
            device=device,
            patience=PATIENCE,
        )
        same = _same(case, samples, selection)
    return Row(
        case=case,
        features=shape.features,
        tokens=shape.tokens,
        dim=shape.dim,
        batch=shape.batch,
        budget=problem.budget,
        keep=samples[0].n,
        device=device.type,
        engine=engine,
        ours_ms=ours_ms,
        gram_ms=gram_ms * times,
        gram_extrapolated=times != 1,
        dense_ms=dense_ms,
        naive_ms=naive_ms,
        picking_ms=picking_ms,
        naive_picking_ms=naive_picking_ms,
        ops=launched.ops,
        syncs=launched.syncs,
        reads=counted.syncs,
        peak_mb=counted.peak_bytes / 1e6,
        exact=bool(pipeline(tokens, "device").exact.all()),
        same=same,
    )


def _launched(pipeline: Pipeline, tokens: TokenBatch) -> Counting:
    """What an accelerator is asked to do: counted on the one at hand, else on tensors that hold no values."""
    there = tokens if tokens.features.device.type != "cpu" else tokens.to("meta")
    pipeline(there, "device")  # whatever is copied to the device once is there now
    with Counting(there.features.device) as launched:
        pipeline(there, "device")
    return launched


def _gram(features: Float[Tensor, "batch tokens dim"]) -> tuple[Callable[[], Tensor], float]:
    """A call that multiplies cosines of all pairs, or of a part of them, and how many times that is all."""
    batch, tokens, _ = features.shape
    rows = tokens if tokens <= WHOLE_GRAM else GRAM_ROWS
    samples = min(batch, max(GRAM_ENTRIES // (rows * tokens), 1))
    vectors = unit(features[:samples])
    return lambda: vectors[:, :rows] @ vectors.mT, batch * tokens / (samples * rows)


def _samples(tokens: TokenBatch, selection: Selection) -> list[Sample]:
    """The samples as a reference gets them, with the scores that our selectors saw."""
    parts = (tokens.features, tokens.positions, selection.debiased, selection.counts.tolist())
    return [Sample(*each) for each in zip(*parts, strict=True)]


def _same(case: str, samples: Sequence[Sample], selection: Selection) -> bool | None:
    """Whether the textbook keeps the same tokens of each sample; None where rounding decides that."""
    verdicts = [
        _agrees(case, sample, kept.nonzero().flatten().tolist())
        for sample, kept in zip(samples, selection.kept, strict=True)
    ]
    return False if False in verdicts else None if None in verdicts else True


def _agrees(case: str, sample: Sample, kept: Chosen) -> bool | None:
    if set(dense(case, sample)) == set(kept):
        return True
    exact = set(dense(case, sample.in_double()))
    unsure = any(set(dense(case, each)) != exact for each in (sample, sample.shaken().in_double()))
    return exact == set(kept) or (None if unsure else False)
