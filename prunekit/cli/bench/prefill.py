"""`prunekit bench prefill`: the speed that a model gains, beside the speed that the formula predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby, product
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import typer
from rich.table import Table

from prunekit.bench.environment import environment
from prunekit.bench.features import made_up_prior_file
from prunekit.budget import parse_budget
from prunekit.cli.bench.machine import device_named, using_threads
from prunekit.cli.console import note, print_json, progress, wide
from prunekit.files import load
from prunekit.pipeline import Pipeline

if TYPE_CHECKING:
    from prunekit.bench.prefill import Effort, Row

MODEL, TOKENS = "random-llava-small", (576, 2880)
PIPELINES, BESIDE = ("fastv", "d2pruner"), ("random", "uniform_grid")
CAPTION = (
    "prefill: the forward pass that reads the prompt, with choosing and all that pruning adds, without "
    "vision tower and projector, which the title gives apart. faster: beside the prefill without pruning; "
    "predicted: by operations of the decoder, convention exact. decode: each token after the first. "
    "peak: what tensors hold at most while reading, weights not counted. keep-all: fastv with everything "
    "kept, the price of attaching. Medians of rounds in which all alternate. Read ratios, not milliseconds: "
    "{device}, threads: {threads}."
)
MADE_UP = (
    "made-up prior: the model has none, so an invented one is taken away from the scores; it takes as long."
)


def prefill(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="random-llava-tiny, -small or -7b (random weights, no download), testbed, a local "
            "folder, or a hub id. By default the first."
        ),
    ] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            help="The name of an installed pipeline, or a YAML file. By default fastv and d2pruner; "
            "random and uniform_grid are always beside."
        ),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=10**5, help="Visual tokens to come near to, in whole images. By default 576 and 2880."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Tokens to keep: a count (64) or a share. By default what each pipeline says."),
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to decode after the first.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="How many rounds count.")] = 5,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds after which no further round on a prompt starts.")
    ] = 20.0,
    device: Annotated[
        str | None, typer.Option(help="Where: cpu, cuda, cuda:1. By default a GPU where there is one.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="The precision. By default the model's own, and float32 for weights on a CPU."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads that torch may use.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Measure what pruning does to reading a prompt and answering it, beside the formula, in one run.

    The first four options may be given again: every combination is a row. Each prompt is of noise and one
    word, so answers mean nothing; times do.

    Example: prunekit bench prefill --model random-llava-small --pipeline fastv --tokens 576 --budget 0.5
    """
    from prunekit.bench.prefill import MADE_UP as INVENTED
    from prunekit.bench.prefill import Effort

    place = device_named(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    names = dict.fromkeys([*(pipeline or PIPELINES), *BESIDE])
    chosen = [load(name) for name in names]
    if budget:
        chosen = [each.swap(budget=parse_budget(text)) for text, each in product(budget, chosen)]
    precision = getattr(torch, dtype) if dtype else None
    effort = Effort(new_tokens, runs, patience)
    with using_threads(threads):
        rows = [
            row
            for name in model or [MODEL]
            for row in _measured(name, place, precision, chosen, tokens or TOKENS, effort)
        ]
    told = environment(place, threads)
    if json:
        print_json({"rows": [asdict(row) for row in rows], "environment": told})
        return
    for table in _tables(rows):
        wide().print(table)
    note(CAPTION.format(**told))
    if any(INVENTED in row.pipeline for row in rows):
        note(MADE_UP)


def _measured(
    name: str,
    device: torch.device,
    dtype: torch.dtype | None,
    pipelines: Sequence[Pipeline],
    sizes: Sequence[int],
    effort: Effort,
) -> Iterator[Row]:
    """The rows of one model, with a progress bar."""
    from prunekit import hf
    from prunekit.bench.prefill import attachable, keep_all, measured

    hf.silence()
    loaded = hf.load(name, device=device, dtype=dtype)
    with made_up_prior_file() as prior, progress() as bar:
        chosen = [keep_all(), *(attachable(each, loaded.model, prior) for each in pipelines)]
        answers = (1 + len(chosen)) * (1 + effort.runs)
        for size in sizes:
            task = bar.add_task(f"{name}, {size} visual tokens", total=answers)
            yield from measured(loaded, chosen, size, effort, partial(bar.advance, task))
            bar.remove_task(task)


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each prompt: without pruning, then with each pipeline."""
    for _, group in groupby(rows, key=lambda row: (row.model, row.tokens)):
        first, *_ = same = list(group)
        table = Table(
            title=_title(first), title_justify="left", box=None, header_style="bold", pad_edge=False
        )
        for name in _cells(first):
            table.add_column(name, justify="left" if name == "pipeline" else "right", no_wrap=True)
        table.add_row(*_unpruned(first))
        for row in same:
            table.add_row(*_cells(row).values())
        yield table


def _title(row: Row) -> str:
    vision = "" if row.vision_ms is None else f", vision {row.vision_ms:.1f} ms"
    return (
        f"{row.model}, {row.dtype} on {row.device}, {row.tokens} visual and {row.text} other tokens{vision}, "
        f"rounds: {row.runs}"
    )


def _unpruned(row: Row) -> tuple[str, ...]:
    return (
        "unpruned",
        str(row.tokens),
        f"{row.prefill_unpruned_ms:.1f}",
        "",
        "",
        "",
        f"{row.decode_unpruned_ms:.1f}",
        f"{row.peak_unpruned_mb:.1f}",
        f"{row.kv_unpruned_mb:.1f}",
    )


def _cells(row: Row) -> dict[str, str]:
    return {
        "pipeline": row.pipeline,
        "kept": str(row.kept),
        "prefill ms": f"{row.prefill_ms:.1f}",
        "choosing ms": f"{row.select_ms:.2f}",
        "faster": f"{row.measured_speedup:.2f}×",
        "predicted": f"{row.predicted_speedup:.2f}×",
        "decode ms": f"{row.decode_ms:.1f}",
        "peak MB": f"{row.peak_mb:.1f}",
        "KV MB": f"{row.kv_mb:.1f}",
    }
