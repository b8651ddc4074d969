"""The pipelines that come with prunekit: a method is a YAML file in this folder, named after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prunekit import hookimpl


@hookimpl
def prunekit_pipelines() -> Mapping[str, Path]:
    return {file.stem: file for file in Path(__file__).parent.glob("*.yaml")}
