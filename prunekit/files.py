"""Pipelines as YAML files: read safely, with errors that point at the place, and written back.

Plain `yaml.safe_load` would accept a key given twice, read `on` as a truth value and `1e-3` as text. This
loader refuses the first, keeps the second as the word it is, and reads the third as the number it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml
from pydantic import ValidationError

from prunekit.errors import ConfigError, PrunekitError, nearest
from prunekit.pipeline import Pipeline, mistakes
from prunekit.registry import Registry, installed

YamlPath = tuple[int | str, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2 for truth values and numbers."""

    yaml_implicit_resolvers: ClassVar = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float",
                           "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"}
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }  # fmt: skip


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


@dataclass(frozen=True, slots=True)
class _Document:
    """A parsed file: its data, and the line and column (from 1) at which each path stands."""

    source: str
    data: dict[str, Any]
    marks: Mapping[YamlPath, tuple[int, int]]

    def at(self, path: YamlPath) -> str:
        """`file:line:column` of a path, or of the nearest place above it."""
        while path and path not in self.marks:
            path = path[:-1]
        line, column = self.marks.get(path, (1, 1))
        return f"{self.source}:{line}:{column}"


def load(name: str | Path, registry: Registry | None = None) -> Pipeline:
    """A pipeline by name, or from a YAML file.

    Args:
        name: The name of an installed pipeline (`d2pruner`), or a path to a `.yaml` file.
        registry: Where to look up stages and parents; by default what is installed.

    Raises:
        UnknownName: There is no pipeline of that name, and no such file.
        ConfigError: The file has mistakes: all of them, each with line, column and path.
    """
    registry = registry or installed()
    path = _path_of(name, registry, beside=Path())
    document = _with_parents(path, registry, ())
    try:
        return Pipeline.model_validate(document.data, context={"registry": registry})
    except ValidationError as error:
        lines = [f"{document.at(where)}: {why}" for where, why in mistakes(error).items()]
        raise ConfigError("\n".join(lines)) from error


def to_yaml(pipeline: Pipeline) -> str:
    """The pipeline as YAML with every value written out; `load` gives the same pipeline back."""
    data = pipeline.model_dump(mode="json")
    data["bias"] = data["bias"][0] if len(data["bias"]) == 1 else data["bias"] or None
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def with_settings(pipeline: Pipeline, settings: Sequence[str]) -> Pipeline:
    """The pipeline with single values changed, each given as `path=value`: `graph.alpha=0.5`.

    The value is read as YAML; a number in the path counts the items of a list from 0: `select.1.use=top_k`.

    Raises:
        ConfigError: A path leads nowhere, or the pipeline is none any more.
    """
    data = yaml.safe_load(to_yaml(pipeline))
    for setting in settings:
        path, sign, text = setting.partition("=")
        if not sign or not path:
            raise ConfigError(f"--set {setting}: write path=value, for instance graph.alpha=0.5.")
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}{_yaml_fault(error)}") from error
        _put(data, path.split("."), value, setting)
    return Pipeline.validated(data, installed(), f"{pipeline.name} with --set {' '.join(settings)}")


def _put(data: Any, path: list[str], value: object, setting: str) -> None:
    """Puts one value into nested plain data."""
    *blocks, last = path
    held = data
    for step in blocks:
        held = _inside(held, step, setting)
    if isinstance(held, list):
        _inside(cast("list[object]", held), last, setting)
        held[int(last)] = value
    elif isinstance(held, dict):
        held[last] = value
    else:
        raise ConfigError(f"--set {setting}: {'.'.join(blocks)} holds no fields.")


def _inside(held: Any, step: str, setting: str) -> Any:
    if isinstance(held, list):
        items = cast("list[object]", held)
        if step.isdecimal() and int(step) < len(items):
            return items[int(step)]
        raise ConfigError(f"--set {setting}: {step!r} is no item; the list has 0 to {len(items) - 1}.")
    if isinstance(held, dict) and step in held:
        return cast("dict[str, object]", held)[step]
    names = cast("dict[str, object]", held) if isinstance(held, dict) else ()
    raise ConfigError(f"--set {setting}: there is no {step!r} here. {nearest(step, names)}")


def _path_of(name: str | Path, registry: Registry, beside: Path) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or isinstance(name, Path):
        path = path if path.is_absolute() else beside / path
        if not path.is_file():
            raise ConfigError(f"There is no pipeline file {str(path)!r}.")
        return path
    return registry.pipeline(name).origin.file


def _with_parents(path: Path, registry: Registry, children: tuple[Path, ...]) -> _Document:
    """The document with the blocks it does not give taken from the pipeline it extends."""
    path = path.resolve()
    if path in children:
        circle = " → ".join(file.name for file in (*children, path))
        raise ConfigError(f"{path}: `extends` goes round in a circle: {circle}.")
    document = _parsed(path)
    parent = document.data.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise ConfigError(f"{document.at(('extends',))}: extends: name one pipeline or file.")
    try:
        parent_path = _path_of(parent, registry, beside=path.parent)
    except PrunekitError as error:
        raise ConfigError(f"{document.at(('extends',))}: extends: {error}") from error
    inherited = _with_parents(parent_path, registry, (*children, path))
    return _Document(document.source, {**inherited.data, **document.data}, document.marks)


def _parsed(path: Path) -> _Document:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_yaml_fault(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{path}:1:1: a pipeline is a mapping of blocks: {', '.join(Pipeline.model_fields)}, extends."
        )
    marks: dict[YamlPath, tuple[int, int]] = {}
    try:
        _mark(node, (), marks, str(path), set())
        data = cast("dict[str, Any]", _Loader("").construct_document(node))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_yaml_fault(error)}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return _Document(str(path), data, marks)


def _mark(
    node: yaml.Node,
    path: YamlPath,
    marks: dict[YamlPath, tuple[int, int]],
    source: str,
    above: set[int],
) -> None:
    """Writes down where each path stands; refuses keys given twice, keys that are no words, and loops."""
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    if id(node) in above:
        raise ConfigError(f"{source}:{line}:{column}: a block contains itself.")
    marks.setdefault(path, (line, column))
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _mark(item, (*path, index), marks, source, above)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line, column = key.start_mark.line + 1, key.start_mark.column + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise ConfigError(f"{source}:{line}:{column}: a key must be a word.")
        name = str(key.value)
        if name in seen:
            raise ConfigError(f"{source}:{line}:{column}: the key {name!r} is given twice.")
        if not path and name not in {*Pipeline.model_fields, "extends"}:
            hint = nearest(name, {*Pipeline.model_fields, "extends"})
            raise ConfigError(f"{source}:{line}:{column}: there is no block {name!r}. {hint}")
        seen.add(name)
        marks[(*path, name)] = (line, column)
        _mark(value, (*path, name), marks, source, above)


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    return f"{place}: this is not YAML: {what}."
