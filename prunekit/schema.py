"""The JSON schema of pipeline files, from which an editor completes stages and fields."""

from __future__ import annotations

from typing import Any

from prunekit.pipeline import Pipeline
from prunekit.registry import Registry
from prunekit.stages import KIND_MARK, KINDS

LIST_OR_ONE = {"cites", "differs", "bias", "select"}
"""The blocks that may be given as one thing instead of a list."""


def json_schema(registry: Registry) -> dict[str, Any]:
    """The schema of a pipeline file, with every stage of the registry where a stage may stand."""
    definitions: dict[str, Any] = {}
    schema = _gathered(Pipeline.model_json_schema(), definitions)
    for kind in KINDS:
        entries = [entry for entry in registry.stages if entry.kind == kind.kind]
        for entry in entries:
            described = _gathered(entry.stage.model_json_schema(), definitions)
            described["required"] = ["use", *described.get("required", ())]
            definitions[f"{kind.kind}.{entry.name}"] = described
        by_name = {"enum": [entry.name for entry in entries]}
        whole = [{"$ref": f"#/$defs/{kind.kind}.{entry.name}"} for entry in entries]
        definitions[kind.kind] = {"anyOf": [by_name, *whole]}
    for blocks in (schema["properties"], definitions["Override"]["properties"]):
        for block in LIST_OR_ONE & blocks.keys():
            held = blocks[block]
            held["anyOf"] = [{"type": "array", "items": held["items"]}, held.pop("items")]
            del held["type"]
        blocks["bias"]["anyOf"].append({"type": "null"})
    definitions["At"] = {"anyOf": [{"const": "vision"}, definitions["At"]]}
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "The pipeline whose blocks hold where this file gives none: a name, or a file. Its "
        "summary and differs do not.",
    }
    schema.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "prunekit pipeline",
        "$defs": definitions,
    }


def _gathered(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions moved to the common ones, and references in place of stage kinds."""
    definitions.update(_referring(schema.pop("$defs", {})))
    return _referring(schema)


def _referring(value: Any) -> Any:
    if isinstance(value, list):
        return [_referring(item) for item in value]
    if isinstance(value, dict):
        if KIND_MARK in value:
            others = {key: item for key, item in value.items() if key != KIND_MARK}
            return {"$ref": f"#/$defs/{value[KIND_MARK]}", **others}
        return {key: _referring(item) for key, item in value.items()}
    return value
