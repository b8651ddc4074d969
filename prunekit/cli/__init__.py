"""The command line: `prunekit demo | run | doctor | list | show | check | budget | calibrate | bench | …`."""

from __future__ import annotations

import sys

import typer

from prunekit.cli import bench
from prunekit.cli.budget import budget
from prunekit.cli.calibrate import calibrate_command
from prunekit.cli.check import check
from prunekit.cli.console import complain
from prunekit.cli.demo import demo
from prunekit.cli.doctor import doctor
from prunekit.cli.golden import golden
from prunekit.cli.list import list_installed
from prunekit.cli.new_plugin import new_plugin
from prunekit.cli.run import run
from prunekit.cli.schema import schema
from prunekit.cli.show import show
from prunekit.errors import PrunekitError

USER_MISTAKE = 2

app = typer.Typer(
    name="prunekit",
    help="Modular visual-token pruning for multimodal models.",
    epilog="Start with: prunekit demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(demo)
app.command()(run)
app.command(name="list")(list_installed)
app.command()(doctor)
app.command()(show)
app.command()(check)
app.command()(schema)
app.command()(budget)
app.command(name="calibrate")(calibrate_command)
app.command()(golden)
app.command(name="new-plugin")(new_plugin)
app.add_typer(bench.app)


def main() -> None:
    """Runs the command line; what the user can mend ends in one paragraph and exit code 2."""
    try:
        app()
    except PrunekitError as error:
        complain(str(error))
        sys.exit(USER_MISTAKE)
