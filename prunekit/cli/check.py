"""`prunekit check`: are these pipeline files right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunekit.cli.console import err, out, print_json
from prunekit.errors import PrunekitError
from prunekit.files import load


def check(
    files: Annotated[list[Path], typer.Argument(help="Pipeline files to check.")],
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Check pipeline files: every mistake with file, line, column and path. Exit code 0 or 2.

    Example: prunekit check mine.yaml
    """
    faults: dict[str, str | None] = {}
    for file in files:
        try:
            load(file)
            faults[str(file)] = None
        except PrunekitError as error:
            faults[str(file)] = str(error)
    if json:
        print_json([{"file": file, "ok": not why, "error": why} for file, why in faults.items()])
    else:
        for file, why in faults.items():
            if why:
                err.print(why, markup=False, soft_wrap=True)
            else:
                out.print(f"{file}: ok", markup=False, soft_wrap=True)
    if any(faults.values()):
        raise typer.Exit(2)
