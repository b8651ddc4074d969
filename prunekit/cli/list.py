"""`prunekit list`: what is installed, and where each name comes from."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from prunekit.card import Card
from prunekit.cli.console import err, out, print_json
from prunekit.errors import PrunekitError
from prunekit.files import load
from prunekit.registry import PipelineEntry, Registry, installed


def list_installed(
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the installed stages by kind and the pipelines by family.

    Of a stage the plugin and the file it comes from, of a pipeline what it does, where it prunes and how
    many tokens go on from there.
    """
    registry = installed()
    cards, faults = _cards(registry)
    if json:
        print_json(_as_data(registry, cards, faults))
        return
    stages = Table("kind", "name", "plugin", box=None, header_style="bold", pad_edge=False)
    stages.add_column("file", overflow="fold")
    for entry in registry.stages:
        cells = (entry.kind, entry.name, entry.origin.plugin, str(entry.origin.file))
        stages.add_row(*map(Text, cells))
    out.print(stages, soft_wrap=True)
    out.print()
    out.print(_by_family(cards), soft_wrap=True)
    for entry, why in faults.items():
        err.print(f"The pipeline {entry.name!r} could not be loaded: {why}", markup=False)
    for plugin in registry.broken:
        err.print(f"The plugin {plugin.name!r} could not be loaded: {plugin.reason}", markup=False)


def _cards(registry: Registry) -> tuple[dict[PipelineEntry, Card], dict[PipelineEntry, str]]:
    """The card of every pipeline, or why it has none."""
    cards: dict[PipelineEntry, Card] = {}
    faults: dict[PipelineEntry, str] = {}
    for entry in registry.pipelines:
        try:
            cards[entry] = Card(load(entry.name, registry))
        except PrunekitError as error:
            faults[entry] = str(error)
    return cards, faults


def by_family(cards: dict[PipelineEntry, Card]) -> list[tuple[str, list[tuple[PipelineEntry, Card]]]]:
    """The cards under their families, both in the order of their names."""
    ordered = sorted(cards.items(), key=lambda item: (item[1].pipeline.family, item[0].name))
    return [(family, list(held)) for family, held in groupby(ordered, lambda item: item[1].pipeline.family)]


def _by_family(cards: dict[PipelineEntry, Card]) -> Table:
    table = Table("pipeline", "prunes", "what it does", box=None, header_style="bold", pad_edge=False)
    for family, held in by_family(cards):
        table.add_row(Text(family, style="italic"))
        for entry, card in held:
            table.add_row(*map(Text, (f"  {entry.name}", card.prunes, card.pipeline.summary)))
    return table


def _as_data(
    registry: Registry, cards: dict[PipelineEntry, Card], faults: dict[PipelineEntry, str]
) -> dict[str, object]:
    return {
        "stages": [{"kind": entry.kind, **_origin(entry)} for entry in registry.stages],
        "pipelines": [
            {**_origin(entry), **(cards[entry].as_data() if entry in cards else {"fault": faults[entry]})}
            for entry in registry.pipelines
        ],
        "broken": [{"plugin": plugin.name, "reason": plugin.reason} for plugin in registry.broken],
    }


def _origin(entry: Any) -> dict[str, str]:
    return {"name": entry.name, "plugin": entry.origin.plugin, "file": str(entry.origin.file)}
