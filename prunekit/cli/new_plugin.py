"""`prunekit new-plugin`: a plugin project that works before you change a line."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from prunekit.cli.console import note, out
from prunekit.errors import ConfigError
from prunekit.registry import installed

TEMPLATE = Path(__file__).parent / "plugin_template"
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "plugin.py": "{module}.py",
    "test_plugin.py": "test_{module}.py",
}


def new_plugin(
    name: Annotated[str, typer.Argument(help="What the stage is called: lower case, like edge_energy.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where to write the project; by default ./prunekit-NAME.")
    ] = None,
) -> None:
    """Write a plugin project: one stage, an entry point, and a test that holds it to the laws.

    Example: prunekit new-plugin edge_energy
    """
    module = name.replace("-", "_")
    _check_name(module)
    place = folder or Path(f"prunekit-{module.replace('_', '-')}")
    if place.exists():
        raise ConfigError(f"{str(place)!r} is there already; choose another place with --folder.")
    words = {
        "module": module,
        "distribution": f"prunekit-{module.replace('_', '-')}",
        "class_name": "".join(word.capitalize() for word in module.split("_")),
        "title": module.replace("_", " ").capitalize(),
    }
    _write(place, words)
    out.print(str(place), markup=False, soft_wrap=True)
    note(f"Next: cd {place} && pip install --editable '.[test]' && pytest")


def _check_name(module: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", module) or keyword.iskeyword(module):
        raise ConfigError(f"{module!r} cannot name a stage: write lower-case words, like edge_energy.")
    if find_spec(module) is not None:
        raise ConfigError(f"There is a module {module!r} already; choose another name for the plugin.")
    for entry in installed().stages:
        if entry.name == module:
            raise ConfigError(
                f"There is a stage {module!r} already, from the plugin {entry.origin.plugin!r}; choose "
                "another name."
            )


def _write(place: Path, words: dict[str, str]) -> None:
    """Writes the project, whole or not at all."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            project = Path(scratch) / "project"
            project.mkdir()
            for source, target in FILES.items():
                text = Template((TEMPLATE / f"{source}.template").read_text(encoding="utf-8")).substitute(
                    words
                )
                (project / target.format(**words)).write_text(text, encoding="utf-8")
            shutil.move(project, place)
    except OSError as error:
        raise ConfigError(f"{str(place)!r} cannot be written: {error.strerror}.") from error
