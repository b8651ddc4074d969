"""One HTML file that holds a whole run: images, maps, kept tokens, answers and numbers."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from prunekit.cli.pictures import png
from prunekit.files import to_yaml
from prunekit.writing import write_whole

if TYPE_CHECKING:
    from prunekit.cli.outcome import Outcome


def write_report(outcomes: list[Outcome], file: Path) -> None:
    """Writes the report, whole or not at all. Nothing in it is fetched from anywhere.

    Raises:
        ConfigError: The file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pipeline = outcomes[0].pipeline
    page = environment.get_template("report.html.jinja").render(
        outcomes=outcomes, pipeline=pipeline, yaml=to_yaml(pipeline), picture=_embedded
    )
    write_whole(file, page.encode())


def _embedded(outcome: Outcome) -> str:
    """The picture of an outcome as a data URL."""
    return f"data:image/png;base64,{b64encode(png(outcome.drawn())).decode()}"
