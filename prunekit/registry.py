"""What is installed: a frozen value made from plugins, asked by kind and name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pluggy

from prunekit import hookspecs
from prunekit.errors import PluginError, UnknownName, nearest
from prunekit.stages import KINDS, Stage

if TYPE_CHECKING:
    from prunekit.hf import Adapter

GROUP = "prunekit"
"""The entry-point group that plugins declare themselves in."""

BLOCKED = "PRUNEKIT_BLOCK"
"""The environment variable that names plugins to leave out, separated by commas."""

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a name comes from: the plugin, and the file it stands in."""

    plugin: str
    file: Path


@dataclass(frozen=True, slots=True)
class StageEntry:
    """A registered stage class."""

    kind: str
    name: str
    stage: type[Stage]
    origin: Origin


@dataclass(frozen=True, slots=True)
class PipelineEntry:
    """A registered pipeline: `origin.file` is its YAML file."""

    name: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that could not be loaded, and why; everything else works."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Registry:
    """Stages, pipelines and adapters by name, each with the plugin it comes from."""

    stages: tuple[StageEntry, ...]
    pipelines: tuple[PipelineEntry, ...]
    adapters: tuple[Adapter, ...] = ()
    broken: tuple[BrokenPlugin, ...] = ()

    @classmethod
    def of(cls, plugins: Mapping[str, object], broken: Sequence[BrokenPlugin] = ()) -> Registry:
        """A registry of these plugins, by name.

        Raises:
            PluginError: Two plugins bring one name, or a plugin brings something that is no stage.
        """
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        for name, plugin in plugins.items():
            manager.register(plugin, name=name)
        manager.check_pending()
        stages = tuple(
            _stage_entry(plugin, stage)
            for plugin, found in _answers(manager, "prunekit_stages")
            for stage in found
        )
        pipelines = tuple(
            PipelineEntry(name, Origin(plugin, Path(file)))
            for plugin, found in _answers(manager, "prunekit_pipelines")
            for name, file in _existing(plugin, found).items()
        )
        adapters = tuple(adapter for _, found in _answers(manager, "prunekit_adapters") for adapter in found)
        _refuse_doubles(stages, lambda entry: f"{entry.kind} stage {entry.name!r}")
        _refuse_doubles(pipelines, lambda entry: f"pipeline {entry.name!r}")
        order = [kind.kind for kind in KINDS]
        return cls(
            tuple(sorted(stages, key=lambda entry: (order.index(entry.kind), entry.name))),
            tuple(sorted(pipelines, key=lambda entry: entry.name)),
            adapters,
            tuple(broken),
        )

    def stage(self, kind: str, name: str) -> type[Stage]:
        """The stage class of that kind and name.

        Raises:
            UnknownName: There is none.
        """
        return self._found(
            [entry for entry in self.stages if entry.kind == kind], name, f"{kind} stage"
        ).stage

    def pipeline(self, name: str) -> PipelineEntry:
        """The shipped pipeline of that name.

        Raises:
            UnknownName: There is none.
        """
        return self._found(self.pipelines, name, "pipeline")

    def example(self, kind: str) -> str:
        """The name of some stage of that kind."""
        return next((entry.name for entry in self.stages if entry.kind == kind), "…")

    def _found(self, entries: Sequence[Any], name: str, what: str) -> Any:
        for entry in entries:
            if entry.name == name:
                return entry
        failed = "".join(
            f" The plugin {plugin.name!r} could not be loaded ({plugin.reason})." for plugin in self.broken
        )
        names = (entry.name for entry in entries)
        raise UnknownName(f"There is no {what} {name!r}. {nearest(name, names)}{failed}")


@cache
def installed(block: tuple[str, ...] = ()) -> Registry:
    """The registry of everything installed in this environment; made on the first call, never on import.

    Args:
        block: Plugins to leave out, besides those that `PRUNEKIT_BLOCK` names.
    """
    blocked = {*block, *(name.strip() for name in os.environ.get(BLOCKED, "").split(","))}
    plugins: dict[str, object] = {}
    broken: list[BrokenPlugin] = []
    for point in _declared():
        if point.name in blocked:
            continue
        try:
            plugin = point.load()
            Registry.of({point.name: plugin})
        except (Exception, SystemExit) as error:
            broken.append(BrokenPlugin(point.name, f"{type(error).__name__}: {error}"))
            continue
        if point.name in plugins or plugin in plugins.values():
            broken.append(BrokenPlugin(point.name, f"{point.value}: another plugin has this name or module"))
        else:
            plugins[point.name] = plugin
    return Registry.of(plugins, broken)


def _declared() -> Iterator[EntryPoint]:
    """Every entry point of the group, once, in the order of their names.

    A distribution seen twice, as with an editable install beside its own metadata, counts once.
    """
    points = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    for _, point in sorted(points.items()):
        yield point


def _answers(manager: pluggy.PluginManager, hook: str) -> Iterator[tuple[str, Any]]:
    """What each plugin answers to a hook, in the order they were registered."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        try:
            yield implementation.plugin_name, implementation.function()
        except Exception as error:
            raise PluginError(
                f"The plugin {implementation.plugin_name!r} failed in {hook}: "
                f"{type(error).__name__}: {error}. {_how_to_block(implementation.plugin_name)}"
            ) from error


def _stage_entry(plugin: str, stage: object) -> StageEntry:
    if not (isinstance(stage, type) and issubclass(stage, KINDS)):
        raise PluginError(
            f"The plugin {plugin!r} returned {stage!r} from prunekit_stages, which wants classes that "
            f"derive from {', '.join(kind.__name__ for kind in KINDS)}. {_how_to_block(plugin)}"
        )
    use = stage.model_fields["use"].default
    if inspect.isabstract(stage) or not isinstance(use, str) or "kind" in stage.__dict__:
        raise PluginError(
            f"The stage {stage.__name__} of the plugin {plugin!r} is not final: it needs a `__call__` and "
            f'a name, `use: Literal["…"] = "…"`. {_how_to_block(plugin)}'
        )
    return StageEntry(stage.kind, use, stage, Origin(plugin, Path(inspect.getfile(stage))))


def _existing(plugin: str, files: object) -> Mapping[str, Path]:
    """The pipelines of a plugin, if they are a mapping of names to files that are there."""
    if not isinstance(files, Mapping):
        raise PluginError(
            f"The plugin {plugin!r} returned {files!r} from prunekit_pipelines, which wants a mapping of "
            f"names to YAML files. {_how_to_block(plugin)}"
        )
    for name, file in cast("Mapping[str, Path]", files).items():
        if not Path(file).is_file():
            raise PluginError(
                f"The plugin {plugin!r} names a file for the pipeline {name!r} that is not there: {file}. "
                f"{_how_to_block(plugin)}"
            )
    return cast("Mapping[str, Path]", files)


def _refuse_doubles(entries: Iterable[Thing], title: Callable[[Thing], str]) -> None:
    seen: dict[str, Any] = {}
    for entry in entries:
        held: Any = seen.setdefault(title(entry), entry)
        if held is not entry:
            first, second = held.origin.plugin, entry.origin.plugin  # pyright: ignore
            raise PluginError(
                f"Two plugins bring the {title(entry)}: {first!r} and {second!r}. To go on without one of "
                f"them, set {BLOCKED}={first} or {BLOCKED}={second}."
            )


def _how_to_block(plugin: str) -> str:
    return f"To go on without it, set {BLOCKED}={plugin}."
