"""Pipelines as YAML files: read safely, with errors that point at the place, and written back.

Plain `yaml.safe_load` would accept a key given twice, read `on` as a truth value and `1e-3` as text. This
loader refuses the first, keeps the second as the word it is, and reads the third as the number it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml
from pydantic import ValidationError

from prunekit.blocks import beside
from prunekit.errors import ConfigError, PrunekitError, nearest
from prunekit.pipeline import Pipeline
from prunekit.registry import Registry, installed
from prunekit.strict import mistakes

YamlPath = tuple[int | str, ...]

MOST_NODES = 10_000
"""How many values a pipeline file may hold, aliases followed: enough for any, too few for a bomb."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2 for truth values and numbers."""

    yaml_implicit_resolvers: ClassVar = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float",
                           "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp",
                           "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }  # fmt: skip


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts quotes around words which `_Loader` would take for numbers, or not read at all."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Dumper.add_representer(
    str,
    lambda dumper, word: dumper.represent_scalar(
        "tag:yaml.org,2002:str", word, style=None if word.isprintable() else '"'
    ),
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in a file, counted from 1, and the line that stands there."""

    source: str
    line: int
    column: int
    text: str

    def fault(self, message: str) -> str:
        """The message, with a caret under the place it speaks of."""
        number = f"{self.line:>5} | "
        return (
            f"{self.source}:{self.line}:{self.column}: {message}\n"
            f"{number}{self.text}\n{' ' * (len(number) + self.column - 1)}^"
        )


@dataclass(frozen=True, slots=True)
class _Document:
    """A parsed file: its data, where each path stands, what is wrong with it as YAML, and whether it has
    lost the parent it names.
    """

    data: dict[str, Any]
    marks: Mapping[YamlPath, _Mark]
    faults: tuple[str, ...]
    orphan: bool = False

    def mark(self, path: YamlPath) -> _Mark:
        """The place of a path, or of the nearest block around it.

        Where a list may be given as its one item, validation counts that item and the file does not.
        """
        while path not in self.marks:
            for place, step in enumerate(path):
                if step == 0 and (uncounted := path[:place] + path[place + 1 :]) in self.marks:
                    return self.marks[uncounted]
            path = path[:-1]
        return self.marks[path]


def load(name: str | Path, registry: Registry | None = None) -> Pipeline:
    """A pipeline by name, or from a YAML file.

    Args:
        name: The name of an installed pipeline (`d2pruner`), or a path to a `.yaml` file.
        registry: Where to look up stages and parents; by default what is installed.

    Raises:
        UnknownName: There is no pipeline of that name.
        ConfigError: There is no such file, or it has mistakes: all of them, each with line, column and path.
    """
    registry = registry or installed()
    document = _with_parents(_path_of(name, registry, beside=Path()), registry, ())
    faults = list(document.faults)
    try:
        pipeline = Pipeline.model_validate(document.data, context={"registry": registry})
    except ValidationError as error:
        marked = [
            (document.mark(path), why)
            for path, why in mistakes(error).items()
            if not document.orphan or not path or path[0] in document.data
        ]
        faults += [mark.fault(why) for mark, why in sorted(marked, key=lambda item: item[0].line)]
    else:
        if not faults:
            return pipeline
    raise ConfigError("\n".join(faults))


def to_yaml(pipeline: Pipeline) -> str:
    """The pipeline as YAML with every value written out; `load` gives the same pipeline back."""
    data = pipeline.model_dump(mode="json")
    for blocks in (data, *data.get("stages", ())):
        if "bias" in blocks:
            blocks["bias"] = blocks["bias"][0] if len(blocks["bias"]) == 1 else blocks["bias"] or None
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


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
        except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigError(f"--set {setting}: the value is not YAML: {error}.") from error
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
        if last == "use" and held.get("use") != value:
            held.clear()  # another stage has other fields
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
        try:
            there = path.is_file()
        except (OSError, ValueError):
            there = False
        if not there:
            raise ConfigError(f"There is no pipeline file {str(path)!r}.")
        return path
    return registry.pipeline(name).origin.file


def _with_parents(path: Path, registry: Registry, children: tuple[Path, ...]) -> _Document:
    """The document with the blocks it does not give taken from the pipeline it extends."""
    path = path.resolve()
    document = _parsed(path)
    parent = document.data.pop("extends", None)
    if parent is None:
        return document
    try:
        parent_path = _parent(parent, path, registry, children)
    except PrunekitError as error:
        fault = document.mark(("extends",)).fault(f"extends: {error}")
        return replace(document, faults=(*document.faults, fault), orphan=True)
    inherited = _with_parents(parent_path, registry, (*children, path))
    replaced = {(), *((block,) for block in document.data)}
    kept = {path: mark for path, mark in inherited.marks.items() if path[:1] not in replaced}
    return _Document(
        beside(document.data, inherited.data),
        {**kept, **document.marks},
        (*document.faults, *inherited.faults),
        inherited.orphan,
    )


def _parent(name: object, path: Path, registry: Registry, children: tuple[Path, ...]) -> Path:
    """The file of the pipeline that the one at `path` extends."""
    if not isinstance(name, str):
        raise ConfigError("name one pipeline or file.")
    parent = _path_of(name, registry, beside=path.parent).resolve()
    if parent in (*children, path):
        circle = " → ".join(file.name for file in (*children, path, parent))
        raise ConfigError(f"goes round in a circle: {circle}.")
    return parent


def _parsed(path: Path) -> _Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text.") from error
    marker = _Marker(str(path), text.splitlines() or [""])
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None or node.tag != "tag:yaml.org,2002:map":
            blocks = ", ".join((*Pipeline.model_fields, "extends"))
            raise ConfigError(marker.at(1, 1).fault(f"a pipeline is a mapping of blocks: {blocks}."))
        marker.walk(node, ())
        data = cast("dict[str, Any]", _Loader("").construct_document(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        place = marker.at(mark.line + 1, mark.column + 1) if mark else marker.at(1, 1)
        raise ConfigError(place.fault(f"this is not YAML: {' '.join(what.split())}.")) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # What a tag such as !!bool promises of a value, and the value does not keep.
        raise ConfigError(marker.at(1, 1).fault(f"this cannot be read: {error}.")) from error
    return _Document(data, marker.marks, tuple(marker.faults))


class _Marker:
    """Walks a YAML tree and writes down where each path stands and what YAML alone would let pass."""

    def __init__(self, source: str, lines: Sequence[str]) -> None:
        self._source = source
        self._lines = lines
        self.marks: dict[YamlPath, _Mark] = {(): self.at(1, 1)}
        self.faults: list[str] = []
        self._walked = 0

    def at(self, line: int, column: int) -> _Mark:
        """The place at a line and column, counted from 1."""
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        return _Mark(self._source, line, column, text)

    def walk(self, node: yaml.Node, path: YamlPath, above: tuple[yaml.Node, ...] = ()) -> None:
        """Marks everything below a node.

        Raises:
            ConfigError: A block contains itself, so that there is no end to it.
        """
        here = self._place(node)
        self._walked += 1
        if self._walked > MOST_NODES:
            raise ConfigError(here.fault(f"this is too large for a pipeline: more than {MOST_NODES} values."))
        if node in above:
            raise ConfigError(here.fault("this block contains itself."))
        self.marks.setdefault(path, here)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.walk(item, (*path, index), (*above, node))
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                place = self._place(key)
                name = str(key.value)
                if key.tag != "tag:yaml.org,2002:str":
                    self.faults.append(place.fault("a key must be a word."))
                elif name in seen:
                    self.faults.append(place.fault(f"the key {name!r} is given twice."))
                seen.add(name)
                self.marks[(*path, name)] = place
                self.walk(value, (*path, name), (*above, node))

    def _place(self, node: yaml.Node) -> _Mark:
        return self.at(node.start_mark.line + 1, node.start_mark.column + 1)
