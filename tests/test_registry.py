"""The registry: everything by name, contradictions named, one broken plugin no harm to the rest."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Literal

import pytest

import prunekit as pk
from prunekit import registry
from prunekit.registry import Registry
from prunekit.stages import KINDS


class Loudest(pk.ImportanceScorer):
    """A stage of a plugin of these tests."""

    use: Literal["loudest"] = "loudest"

    def __call__(self, tokens):
        return tokens.features.float().amax(-1)


class Second(Loudest):
    """Another stage of the same name."""


def plugin(*stages, **pipelines):
    """A plugin as an object with hooks."""
    return SimpleNamespace(
        prunekit_stages=pk.hookimpl(lambda: list(stages), specname="prunekit_stages"),
        prunekit_pipelines=pk.hookimpl(lambda: pipelines, specname="prunekit_pipelines"),
    )


@pytest.fixture
def declared(monkeypatch):
    """Declares plugins, as entry points of installed distributions do, beside or instead of the real ones."""
    plugins = {}

    class Point(EntryPoint):
        def load(self):
            found = plugins[self.name]
            if isinstance(found, Exception):
                raise found
            return found

    def declare(alone=False, **added):
        plugins.update(added)
        real = [] if alone else list(registry.entry_points(group=registry.GROUP))
        points = [*real, *(Point(name, f"{name}:it", registry.GROUP) for name in added)]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        pk.installed.cache_clear()

    yield declare
    monkeypatch.undo()
    pk.installed.cache_clear()


def test_everything_that_comes_with_prunekit_is_there():
    installed = pk.installed()
    assert not installed.broken
    assert {entry.kind for entry in installed.stages} == {kind.kind for kind in KINDS}
    assert {entry.name for entry in installed.pipelines} >= {"d2pruner", "d2pruner-grounding", "fastv"}
    for entry in installed.stages:
        assert installed.stage(entry.kind, entry.name) is entry.stage
        assert entry.origin.file.is_file()


def test_a_stage_of_a_stranger_is_as_good_as_ours(declared):
    declared(strange=plugin(Loudest))
    entry = next(entry for entry in pk.installed().stages if entry.name == "loudest")
    assert entry.origin.plugin == "strange"
    assert pk.load("fastv").swap(importance="loudest").importance == Loudest()


def test_unknown_names_come_with_the_nearest_one():
    with pytest.raises(
        pk.UnknownName, match=r"no graph stage 'cosin'\. Did you mean 'cosine'\? Valid: all_of"
    ):
        pk.installed().stage("graph", "cosin")
    with pytest.raises(pk.UnknownName, match=r"no pipeline 'd2prune'\. Did you mean 'd2pruner'"):
        pk.load("d2prune")


def test_two_plugins_with_one_stage_are_both_named(declared):
    declared(alone=True, first=plugin(Loudest), second=plugin(Second))
    with pytest.raises(
        pk.PluginError, match=r"importance stage 'loudest': 'first' and 'second'.*PRUNEKIT_BLOCK"
    ):
        pk.installed()
    assert pk.installed(block=("second",)).stage("importance", "loudest") is Loudest


def test_two_plugins_with_one_pipeline_are_both_named(tmp_path):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        file.write_text("extends: random\n")
    one, other = (plugin(mine=file) for file in files)
    with pytest.raises(pk.PluginError, match="pipeline 'mine': 'first' and 'second'"):
        Registry.of({"first": one, "second": other})


def test_one_name_in_two_kinds_is_no_contradiction():
    class Loud(pk.Selector):
        """Keeps nothing."""

        use: Literal["loudest"] = "loudest"

        def __call__(self, candidates, kept, room):
            return kept

    book = Registry.of({"first": plugin(Loudest), "second": plugin(Loud)})
    assert book.stage("importance", "loudest") is Loudest
    assert book.stage("select", "loudest") is Loud


@pytest.mark.parametrize(
    "error", [ImportError("no module named nowhere"), RuntimeError("boom"), SyntaxError("?")]
)
def test_a_plugin_that_fails_on_import_is_reported_and_the_rest_works(declared, error):
    declared(faulty=error)
    (broken,) = pk.installed().broken
    assert broken.name == "faulty"
    assert str(error) in broken.reason
    assert pk.load("d2pruner").graph is not None
    with pytest.raises(
        pk.UnknownName, match=rf"The plugin 'faulty' could not be loaded \({type(error).__name__}"
    ):
        pk.load("what faulty brings")


def test_a_plugin_whose_hook_fails_is_reported_too(declared):
    def fails():
        raise ZeroDivisionError("in the hook")

    declared(faulty=SimpleNamespace(prunekit_stages=pk.hookimpl(fails, specname="prunekit_stages")))
    assert [broken.name for broken in pk.installed().broken] == ["faulty"]
    assert pk.load("fastv").name == "fastv"


class Nameless(pk.Selector):
    """A stage without a name."""

    def __call__(self, candidates, kept, room):
        return kept


class Verbless(pk.Selector):
    """A stage without its verb."""

    use: Literal["verbless"] = "verbless"


@pytest.mark.parametrize("stage", [Nameless, Verbless, pk.Selector, pk.Stage, int, "top_k", None, Loudest()])
def test_what_is_no_final_stage_is_refused(stage):
    with pytest.raises(pk.PluginError, match="'strange'"):
        Registry.of({"strange": plugin(stage)})


def test_a_plugin_that_breaks_the_rules_is_reported_by_name(declared):
    declared(strange=plugin(Nameless), unruly=plugin(int))
    assert [broken.name for broken in pk.installed().broken] == ["strange", "unruly"]
    assert all("PluginError" in broken.reason for broken in pk.installed().broken)


def test_plugins_can_be_blocked_from_outside(declared, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_BLOCK", "faulty, mis")
    declared(faulty=ImportError("never looked at"))
    assert not pk.installed().broken
    with pytest.raises(pk.UnknownName, match="no select stage 'mis'"):
        pk.installed().stage("select", "mis")


def test_the_registry_is_made_once():
    assert pk.installed() is pk.installed()


def test_contradicting_plugins_are_both_offered_for_blocking():
    with pytest.raises(pk.PluginError, match="PRUNEKIT_BLOCK=first or PRUNEKIT_BLOCK=second"):
        Registry.of({"first": plugin(Loudest), "second": plugin(Second)})


def test_a_plugin_that_ends_the_program_on_import_is_reported(monkeypatch):
    class Leaving(EntryPoint):
        def load(self):
            raise SystemExit(3)

    real = list(registry.entry_points(group=registry.GROUP))
    points = [*real, Leaving("leaving", "leaving", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.installed.cache_clear()
    try:
        found = registry.installed()
        assert [plugin.name for plugin in found.broken] == ["leaving"]
        assert found.stage("select", "mis")
    finally:
        registry.installed.cache_clear()


def test_a_second_plugin_of_one_name_replaces_nobody(declared):
    declared(top_k=plugin(Loudest))
    found = registry.installed()
    assert [broken.name for broken in found.broken] == ["top_k"]
    assert found.stage("select", "top_k")


def test_a_pipeline_whose_file_is_missing_is_reported(declared, tmp_path):
    declared(ghostly=plugin(ghost=tmp_path / "ghost.yaml"))
    (broken,) = registry.installed().broken
    assert broken.name == "ghostly"
    assert "ghost.yaml" in broken.reason
