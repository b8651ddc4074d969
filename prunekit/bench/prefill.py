"""Pruning measured on a model: reading a prompt, each further token, memory and cache, beside the formula."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prunekit.bench.prompts import prompt_of
from prunekit.errors import MissingPrior, PrunekitError
from prunekit.files import load
from prunekit.hf.clock import timed
from prunekit.hf.looking import Looking, seen_once
from prunekit.measuring import Counting
from prunekit.pipeline import Pipeline
from prunekit.stages import BiasEstimator

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel

    from prunekit.hf import LoadedModel, Pruning, Report

TEXT = 64
"""Tokens of a prompt that are not visual, about."""

KEEP_ALL, MADE_UP = "keep-all", "made-up prior"


@dataclass(frozen=True, slots=True)
class Row:
    """What one pipeline did to one prompt, beside the same prompt without it, all in one run.

    Times are medians of `runs` rounds, in milliseconds. `prefill_ms` is the forward pass that reads the
    prompt, from the model's first hook to its last: embeddings, decoder and output head, choosing and all
    else that pruning adds, but not the vision tower and projector, whose `vision_ms` no pruning in the
    decoder changes; None where they cannot be told apart and are in the prefill. `decode_ms` is for each
    token after the first.

    `predicted_speedup` is the ratio of operations of the decoder, convention `exact`. Memory is in 10⁶
    bytes: `peak_mb` the most that tensors made while reading held at once, on the CPU without what operations
    use inside; `kv_mb` keys and values of the prompt as the cache holds them.
    """

    model: str
    pipeline: str
    tokens: int
    kept: int
    text: int
    prefill_ms: float
    prefill_unpruned_ms: float
    select_ms: float
    decode_ms: float
    decode_unpruned_ms: float
    vision_ms: float | None
    measured_speedup: float
    predicted_speedup: float
    peak_mb: float
    peak_unpruned_mb: float
    kv_mb: float
    kv_unpruned_mb: float
    device: str
    dtype: str
    runs: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        new_tokens: How many tokens to decode after the first.
        runs: How many rounds count.
        patience: Seconds after which no further round of a prompt starts; one is always counted.
    """

    new_tokens: int = 8
    runs: int = 5
    patience: float = 20.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one answer took, in milliseconds."""

    prefill: float
    select: float
    decode: float


@dataclass(slots=True, eq=False)
class _Setup:
    """A model with or without a pipeline, what reading the prompt took in bytes, and its answers."""

    model: PreTrainedModel
    inputs: BatchFeature
    looking: Looking
    pipeline: Pipeline | None = None
    report: Report | None = None
    peak_bytes: int = 0
    cache_bytes: int = 0
    answers: list[_Answer] = field(default_factory=list[_Answer])

    def weigh(self) -> None:
        """Reads the prompt once, counting memory."""
        with self._attached() as pruning, Counting(self.model.device) as counted:
            cache = self._generate(1).past_key_values
        self.report = pruning and pruning.report()
        self.peak_bytes = counted.peak_bytes
        self.cache_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    def answer(self, new_tokens: int) -> None:
        """Reads the prompt and answers it once more, on the clock."""
        with self._attached() as pruning, timed(self.model) as timing:
            self._generate(1 + new_tokens)
        select_ms = pruning.report().select_ms if pruning else 0.0
        self.answers.append(_Answer(timing.prefill_ms, select_ms, timing.decode_ms))

    def median(self, part: str) -> float:
        """Milliseconds for a part of the answers."""
        return statistics.median(getattr(answer, part) for answer in self.answers)

    @contextmanager
    def _attached(self) -> Generator[Pruning | None]:
        """Attached; a pipeline that looks on while pictures are looked at has them looked at anew."""
        if self.pipeline is None:
            yield None
            return
        self.looking.live = self.pipeline.sees
        try:
            with self.pipeline.attach(self.model) as pruning:
                yield pruning
        finally:
            self.looking.live = False

    def _generate(self, tokens: int) -> Any:
        return self.model.generate(  # pyright: ignore[reportCallIssue]
            **self.inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
        )


def keep_all() -> Pipeline:
    """FastV with everything kept: what attaching costs, one row of attention included, and saves nothing."""
    return load("fastv").swap(name=KEEP_ALL, budget=1.0)


def attachable(pipeline: Pipeline, model: PreTrainedModel, prior: Path) -> Pipeline:
    """The pipeline, with another prior where it wants one that the model does not have; its name says so.

    Args:
        pipeline: Any.
        model: The model it is for.
        prior: The file of a prior that was made up.
    """
    try:
        pipeline.attach(model)
    except MissingPrior:
        changes: dict[str, Any] = {"name": f"{pipeline.name} ({MADE_UP})"}
        if pipeline.stages:
            changes["stages"] = [
                {**each.given, "bias": _invented(cut.bias, prior)}
                for each, cut in zip(pipeline.stages, pipeline.cuts, strict=True)
            ]
        else:
            changes["bias"] = _invented(pipeline.bias, prior)
        return pipeline.swap(**changes)
    return pipeline


def measured(
    loaded: LoadedModel,
    pipelines: Sequence[Pipeline],
    visual: int,
    effort: Effort,
    done: Callable[[], object] = lambda: None,
) -> list[Row]:
    """A row for each pipeline, on one prompt of about so many visual tokens.

    Every round reads and answers the prompt once without pruning and once with each pipeline, so that what
    else the machine does slows all of them alike. A round before them counts memory and warms up.

    Args:
        loaded: The model.
        pipelines: What to prune it with.
        visual: Visual tokens to come near to.
        effort: How thoroughly.
        done: Called after every answer.
    """
    inputs = prompt_of(loaded, visual, TEXT)
    looks: list[float] = []
    with torch.inference_mode(), seen_once(loaded.model) as looking:
        looking.look(inputs)
        unpruned = _Setup(loaded.model, inputs, looking)
        pruned = [_Setup(loaded.model, inputs, looking, pipeline) for pipeline in pipelines]
        setups = [unpruned, *pruned]
        for setup in setups:
            setup.weigh()
            done()
        end = time.perf_counter() + effort.patience
        while len(looks) < effort.runs and (not looks or time.perf_counter() < end):
            looks.append(looking.again_ms())
            for setup in setups:
                setup.answer(effort.new_tokens)
                done()
    vision = statistics.median(looks)
    return [_row(loaded.name, unpruned, setup, vision) for setup in pruned]


def _invented(bias: Sequence[BiasEstimator], prior: Path) -> list[object]:
    """The estimators, with that prior where the model's own is wanted."""
    return [
        {**stage.model_dump(), "prior": str(prior)} if getattr(stage, "prior", None) == "auto" else stage
        for stage in bias
    ]


def _row(model: str, unpruned: _Setup, pruned: _Setup, vision: float) -> Row:
    report, pipeline = pruned.report, pruned.pipeline
    if report is None or pipeline is None:
        raise PrunekitError(f"{model} read the prompt without being pruned; there is nothing to compare.")
    operations = report.flops["exact"]
    return Row(
        model=model,
        pipeline=pipeline.name,
        tokens=sum(report.visual_before),
        kept=sum(report.visual_after),
        text=sum(report.text),
        prefill_ms=pruned.median("prefill"),
        prefill_unpruned_ms=unpruned.median("prefill"),
        select_ms=pruned.median("select"),
        decode_ms=pruned.median("decode"),
        decode_unpruned_ms=unpruned.median("decode"),
        vision_ms=vision or None,
        measured_speedup=unpruned.median("prefill") / pruned.median("prefill"),
        predicted_speedup=operations.before / operations.after,
        peak_mb=pruned.peak_bytes / 1e6,
        peak_unpruned_mb=unpruned.peak_bytes / 1e6,
        kv_mb=pruned.cache_bytes / 1e6,
        kv_unpruned_mb=unpruned.cache_bytes / 1e6,
        device=pruned.model.device.type,
        dtype=str(pruned.model.dtype).removeprefix("torch."),
        runs=len(pruned.answers),
    )
