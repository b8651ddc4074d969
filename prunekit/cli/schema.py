"""`prunekit schema`: what an editor needs to complete pipeline files."""

from __future__ import annotations

from prunekit.cli.console import print_json
from prunekit.registry import installed
from prunekit.schema import json_schema


def schema() -> None:
    """Print the JSON schema of pipeline files, with every installed stage in it.

    Example: prunekit schema > pipeline.schema.json, and in the first line of a YAML file
    # yaml-language-server: $schema=pipeline.schema.json
    """
    print_json(json_schema(installed()))
