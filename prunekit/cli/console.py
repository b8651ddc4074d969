"""Where the command line speaks: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

WIDE = 120


def wide() -> Console:
    """Where a table goes whose columns must not be cut: to stdout, wider than a narrow terminal."""
    return Console(width=max(WIDE, out.width), highlight=False)


def complain(message: str) -> None:
    """One error, for a person."""
    err.print("[bold red]Error:[/] ", end="")
    err.print(message, markup=False, soft_wrap=True)


def note(message: str) -> None:
    """Something a person should know that is no result."""
    err.print(message, style="dim", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """The result, for a machine: strict JSON, with null where a number is none."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False, indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def progress() -> Progress:
    """A progress bar on stderr, silent when that is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
