"""`prunekit golden`: do the methods give what their reference implementations gave?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from prunekit.cli.console import err, out, print_json, progress

if TYPE_CHECKING:
    from prunekit.testing.golden import MethodOutcome


def golden(
    folder: Annotated[Path, typer.Argument(help="A folder of golden data: index.json and its tensors.")],
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be given again.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run methods on golden data, and say of every case whether it is what the reference gave.

    Exit code 0, or 1 where a case is not as expected.

    Example: prunekit golden tests/golden/data --method fastv
    """
    from prunekit.testing.golden import read, run_method

    methods = read(folder, method or ())
    outcomes: list[MethodOutcome] = []
    with progress() as bar:
        for each in bar.track(methods, description="methods"):
            outcomes.append(run_method(each))
    if json:
        print_json({"methods": [outcome.as_data() for outcome in outcomes]})
    else:
        _tell(outcomes)
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


def _tell(outcomes: list[MethodOutcome]) -> None:
    table = Table("method", "passed", "failed", box=None, header_style="bold", pad_edge=False)
    for outcome in outcomes:
        table.add_row(*map(Text, (outcome.method, str(outcome.passed), str(outcome.failed))))
    out.print(table)
    for outcome in outcomes:
        for case in outcome.cases:
            for fault in case.faults:
                err.print(f"{outcome.method} {case.case}: {fault}", markup=False, soft_wrap=True)
