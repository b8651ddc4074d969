"""`prunekit bench`: what pruning costs, and what it saves."""

from __future__ import annotations

import typer

from prunekit.cli.bench.prefill import prefill
from prunekit.cli.bench.select import select

app = typer.Typer(
    name="bench",
    help="Measure what pruning costs and what it saves.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command()(select)
app.command()(prefill)
