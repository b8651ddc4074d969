"""The door for plugins: three hooks, each of which returns a value.

A plugin is a module (or object) named by an entry point of the group `prunekit`; it implements the hooks it
has something to say to. prunekit's own strategies enter the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from prunekit.stages import Stage

if TYPE_CHECKING:
    from prunekit.hf import Adapter

hookspec = pluggy.HookspecMarker("prunekit")
hookimpl = pluggy.HookimplMarker("prunekit")


@hookspec
def prunekit_stages() -> Sequence[type[Stage]]:  # pyright: ignore[reportReturnType]
    """The stages this plugin brings. A class' kind is its base, its name is its `use`."""


@hookspec
def prunekit_pipelines() -> Mapping[str, Path]:  # pyright: ignore[reportReturnType]
    """The pipelines this plugin brings: name → YAML file."""


@hookspec
def prunekit_adapters() -> Sequence[Adapter]:  # pyright: ignore[reportReturnType]
    """How to lay out the visual tokens of model families that the generic adapter gets wrong."""
