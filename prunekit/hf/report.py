"""What pruning did to the newest prompt, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from prunekit.hf.flops import Convention, Prompt, cache_bytes, flops
from prunekit.hf.shape import Shape
from prunekit.schedule import Counts, Schedule

_CONVENTIONS: tuple[Convention, ...] = ("exact", "fastv", "fastv-visual")


@dataclass(frozen=True, slots=True)
class Saving:
    """A cost without and with pruning.

    Attributes:
        before: Without.
        after: With.
    """

    before: float
    after: float

    @property
    def percent(self) -> float:
        """What pruning takes off, in percent of the cost without it."""
        return 100 * (1 - self.after / self.before) if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What pruning did to the newest prompt. `print` shows it as a table.

    Costs are of the prompt alone: attention to earlier turns in the cache is not counted.

    Attributes:
        cuts: The pruning layers, each the first to run on fewer tokens.
        layers: How many the language model has.
        attention: The attention implementation.
        prompts: How many prompts were pruned in this block; what follows is of the newest.
        visual_before: Visual tokens of each sample.
        visual_after: Those kept in the end.
        visual_by_cut: Those kept by each cut, of each sample.
        text: The other tokens of each sample, padding not counted.
        flops: Operations for reading the batch, by convention (see `prunekit.hf.flops.Convention`).
        cache_bytes: Bytes of keys and values of the batch, padding not counted.
        select_ms: Milliseconds for choosing.
        prefill_ms: Milliseconds for the whole forward pass, choosing included. The vision tower is in it
            where the forward runs it; `generate` of newer transformers runs it before.
    """

    cuts: tuple[int, ...]
    layers: int
    attention: str
    prompts: int
    visual_before: tuple[int, ...]
    visual_after: tuple[int, ...]
    visual_by_cut: tuple[tuple[int, ...], ...]
    text: tuple[int, ...]
    flops: dict[Convention, Saving]
    cache_bytes: Saving
    select_ms: float
    prefill_ms: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, percentages added, ready for JSON."""
        plain = asdict(self)
        for name, saving in self.flops.items():
            plain["flops"][name]["percent"] = saving.percent
        plain["cache_bytes"]["percent"] = self.cache_bytes.percent
        return plain

    def __str__(self) -> str:
        counts = (self.visual_before, *self.visual_by_cut)
        cuts = f"layer{'s' * (len(self.cuts) > 1)} {', '.join(map(str, self.cuts))} of {self.layers}"
        each = ", ".join(_steps(sample) for sample in zip(*counts, strict=True))
        rows = [
            ("pruned at the entry of", f"{cuts}, {self.attention} attention"),
            ("visual tokens", f"{_steps([sum(samples) for samples in counts])} ({each})"),
            *((f"FLOPs ({name})", _saving(cost, _count)) for name, cost in self.flops.items()),
            ("KV cache", _saving(self.cache_bytes, _bytes)),
            ("choosing", f"{self.select_ms:.2f} ms"),
            ("whole prefill", f"{self.prefill_ms:.2f} ms"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


@dataclass(frozen=True, slots=True)
class Prefill:
    """The bare facts of one pruned prompt.

    Attributes:
        prompts: The tokens of each sample.
        select_ms: Milliseconds for choosing.
        prefill_ms: Milliseconds for the whole forward pass.
    """

    prompts: tuple[Prompt, ...]
    select_ms: float
    prefill_ms: float


def report(shape: Shape, cuts: tuple[int, ...], attention: str, count: int, newest: Prefill) -> Report:
    """The report of the newest of `count` pruned prompts."""
    prompts, depth = newest.prompts, len(shape.layers)
    pruned = [Schedule(cuts, each.kept).tokens(each.visual, depth) for each in prompts]

    def total(cost: Callable[[int, Counts], float]) -> Saving:
        before = (cost(each.text, (each.visual,) * depth) for each in prompts)
        after = (cost(each.text, visual) for each, visual in zip(prompts, pruned, strict=True))
        return Saving(float(sum(before)), float(sum(after)))

    return Report(
        cuts=cuts,
        layers=depth,
        attention=attention,
        prompts=count,
        visual_before=tuple(prompt.visual for prompt in prompts),
        visual_after=tuple(prompt.kept[-1] for prompt in prompts),
        visual_by_cut=tuple(zip(*(prompt.kept for prompt in prompts), strict=True)),
        text=tuple(prompt.text for prompt in prompts),
        flops={name: total(partial(flops, shape, convention=name)) for name in _CONVENTIONS},
        cache_bytes=total(partial(cache_bytes, shape)),
        select_ms=newest.select_ms,
        prefill_ms=newest.prefill_ms,
    )


def _steps(counts: Sequence[int]) -> str:
    return " → ".join(map(str, counts))


def _saving(cost: Saving, show: Any) -> str:
    return f"{show(cost.before)} → {show(cost.after)} (−{cost.percent:.1f} %)"


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def _bytes(number: float) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"
