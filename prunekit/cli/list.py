"""`prunekit list`: what is installed, and where each name comes from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from prunekit.cli.console import err, out, print_json
from prunekit.registry import Registry, installed


def list_installed(
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the installed stages and pipelines, with the plugin and the file each comes from."""
    registry = installed()
    if json:
        print_json(_as_data(registry))
        return
    table = Table("kind", "name", "plugin", box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold")
    for entry in registry.stages:
        cells = (entry.kind, entry.name, entry.origin.plugin, str(entry.origin.file))
        table.add_row(*map(Text, cells))
    table.add_section()
    for entry in registry.pipelines:
        table.add_row(*map(Text, ("pipeline", entry.name, entry.origin.plugin, str(entry.origin.file))))
    out.print(table, soft_wrap=True)
    for plugin in registry.broken:
        err.print(f"The plugin {plugin.name!r} could not be loaded: {plugin.reason}", markup=False)


def _as_data(registry: Registry) -> dict[str, object]:
    return {
        "stages": [
            {
                "kind": entry.kind,
                "name": entry.name,
                "plugin": entry.origin.plugin,
                "file": str(entry.origin.file),
            }
            for entry in registry.stages
        ],
        "pipelines": [
            {"name": entry.name, "plugin": entry.origin.plugin, "file": str(entry.origin.file)}
            for entry in registry.pipelines
        ],
        "broken": [{"plugin": plugin.name, "reason": plugin.reason} for plugin in registry.broken],
    }
