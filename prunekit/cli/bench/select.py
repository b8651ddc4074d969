"""`prunekit bench select`: what selecting costs, beside what it is meant to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.table import Table

from prunekit.bench.environment import environment
from prunekit.bench.features import KINDS, Size, made_up_prior_file
from prunekit.bench.select import CASES, Problem, Row, measured
from prunekit.budget import parse_budget
from prunekit.cli.bench.machine import device_named, known, using_threads
from prunekit.cli.charts import Line, draw_chart
from prunekit.cli.console import note, print_json, progress, wide
from prunekit.cli.pictures import png
from prunekit.errors import ConfigError
from prunekit.kernels.engine import Engine
from prunekit.writing import check_place, write_whole

SIZES, WIDTHS, BATCHES = (576, 2880, 3328, 8192, 16384), (1024, 4096), (1, 16, 64)
DIFFERENT = 1
CAPTION = (
    "ours: one pipeline call, from tokens to selection. Gram: the cosines of all pairs and nothing else; ~ "
    "where a part stands for it. dense: the whole graph first, then the selector. naive: the selector as "
    "published; picking: our loop beside that one alone, after the matrix. Times are medians, of the whole "
    "batch; ops, syncs and peak are counted. same: whether dense keeps the same tokens; ? where rounding "
    "decides. Read ratios, not milliseconds: {device}, threads: {threads}."
)
ASKED, WORDS = ("case", "features", "N", "D", "B", "keep"), ("case", "features", "same")


def select(
    case: Annotated[
        list[str] | None, typer.Option(help=f"What to measure: {', '.join(CASES)}. By default all.")
    ] = None,
    tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="How many tokens a sample has. By default 576 and 2880.")
    ] = None,
    dim: Annotated[
        list[int] | None, typer.Option(min=1, help="How many features a token has. By default 1024.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Tokens to keep: a count (64) or a share. By default 0.1.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="How many samples at once. By default 1.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help=f"What features look like: {', '.join(KINDS)}. By default the first."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to select: cpu, cuda, cuda:1.")] = "cpu",
    engine: Annotated[
        Engine | None,
        typer.Option(help="host reads values, device never does. By default what suits the device."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads that torch may use.")] = 1,
    everything: Annotated[
        bool, typer.Option("--all", help="All sizes, widths and batches that are not given. Takes long.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Where to draw the times against the number of tokens.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Measure selection on made-up tokens, beside what it avoids and what it must agree with, in one run.

    The first six options may be given again: every combination is a row. Exit code 1 where a selection is
    not the textbook's.

    Example: prunekit bench select --case d2pruner --case dpp --tokens 576 --tokens 3328 --keep 64
    """
    if plot is not None:
        check_place(plot)
    place = device_named(device)
    grid = product(
        known("--features", features or KINDS[:1], KINDS),
        tokens or (SIZES if everything else SIZES[:2]),
        dim or (WIDTHS if everything else WIDTHS[:1]),
        batch or (BATCHES if everything else BATCHES[:1]),
    )
    shapes = [Size(*each) for each in grid]
    budgets = [parse_budget(text) for text in keep or ["0.1"]]
    cases = known("--case", case or list(CASES), list(CASES))
    asked = [Problem(name, shape, budget) for shape, budget, name in product(shapes, budgets, cases)]
    problems = [problem for problem in asked if problem.bearable(place)]
    if not problems:
        raise ConfigError("All that was asked for takes too much memory or time here; ask for less.")
    rows = _measured(problems, place, engine, threads)
    if plot is not None:
        write_whole(plot, png(_chart(rows)))
    told = environment(place, threads)
    if json:
        print_json({"rows": [asdict(row) for row in rows], "environment": told})
    else:
        wide().print(_table(rows))
        note(CAPTION.format(**told))
        if len(problems) < len(asked):
            note(f"Left out: {len(asked) - len(problems)} rows that take too much memory or time here.")
        if plot is not None:
            note(f"Picture written to {plot}.")
    if any(row.same is False for row in rows):
        note("A selection is not the textbook's: see the rows that say NO.")
        raise typer.Exit(DIFFERENT)


def _measured(
    problems: Sequence[Problem], device: torch.device, engine: Engine | None, threads: int
) -> list[Row]:
    """The rows, with a progress bar, on so many threads."""
    with using_threads(threads), made_up_prior_file() as prior, progress() as bar:
        rows = measured(problems, prior, device, engine)
        return list(bar.track(rows, total=len(problems), description="Selecting"))


def _table(rows: Sequence[Row]) -> Table:
    """The rows; what is the same in all of them stands in the title."""
    cells, shared = [_cells(row) for row in rows], _shared(rows)
    table = Table(title=_told(shared), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in cells[0]:
        if name not in shared:
            table.add_column(name, justify="left" if name in WORDS else "right", no_wrap=True)
    for each in cells:
        table.add_row(*(text for name, text in each.items() if name not in shared))
    return table


def _shared(rows: Sequence[Row]) -> dict[str, str]:
    """What was asked alike of all rows."""
    first, *others = (_cells(row) for row in rows)
    return {name: first[name] for name in ASKED if all(each[name] == first[name] for each in others)}


def _told(asked: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}".strip() for name, value in asked.items())


def _cells(row: Row) -> dict[str, str]:
    return {
        "case": row.case,
        "features": row.features,
        "N": str(row.tokens),
        "D": str(row.dim),
        "B": str(row.batch),
        "keep": str(row.keep),
        "ours ms": f"{row.ours_ms:.2f}",
        "× Gram": ("~" if row.gram_extrapolated else "") + _ratio(row.ours_ms, row.gram_ms),
        "× dense": _ratio(row.ours_ms, row.dense_ms),
        "× naive": _ratio(row.ours_ms, row.naive_ms),
        "picking × naive": _ratio(row.picking_ms, row.naive_picking_ms),
        "ops": str(row.ops),
        "syncs": str(row.syncs),
        "peak MB": f"{row.peak_mb:.1f}",
        "same": _verdict(row),
    }


def _ratio(ours: float | None, other: float | None) -> str:
    return (
        ""
        if ours is None or other is None
        else f"{ours / other:.3f}"
        if ours < other
        else f"{ours / other:.1f}"
    )


def _verdict(row: Row) -> str:
    """Whether the textbook agrees; nothing where it was not asked."""
    if row.same is None:
        return "" if row.dense_ms is None else "?"
    return "yes" if row.same else "[bold red]NO[/]"


def _chart(rows: Sequence[Row]) -> Image.Image:
    """Milliseconds against tokens: a line for each case and what else differs, and the Gram matrices."""
    shared = _shared(rows)
    lines: dict[str, dict[float, float]] = {}
    for row in rows:
        cells = _cells(row)
        shape = {name: cells[name] for name in ("features", "D", "B") if name not in shared}
        lines.setdefault(_told({"Gram": "", **shape}), {})[row.tokens] = row.gram_ms
        asked = {row.case: "", "budget": str(row.budget), **shape}
        lines.setdefault(_told(asked), {})[row.tokens] = row.ours_ms
    return draw_chart(
        [Line(name, sorted(points.items()), name.startswith("Gram")) for name, points in lines.items()],
        title=_told(shared),
        across="tokens",
        up="milliseconds",
    )
