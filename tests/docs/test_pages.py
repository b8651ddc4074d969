"""Pages that are generated are up to date, every stage has its entry, and pictures are small."""

from __future__ import annotations

import importlib.util

import pytest
from pages import ROOT

import prunekit as pk

DOCS = ROOT / "docs"
LARGEST_PICTURE = 150_000
PAGES = {"importance": "importance", "bias": "bias", "graph": "graphs", "select": "select", "merge": "merge"}


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours():
    return [
        entry for entry in pk.installed().stages if entry.stage.__module__.startswith("prunekit_plugins.")
    ]


def test_generated_pages_are_up_to_date(generate):
    for file, text in generate.pages().items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run python docs/generate.py"


@pytest.mark.parametrize("entry", ours(), ids=lambda entry: f"{entry.kind}.{entry.name}")
def test_every_stage_is_on_the_page_of_its_kind(entry):
    page = (DOCS / "reference" / f"{PAGES[entry.kind]}.md").read_text(encoding="utf-8")
    assert f"::: {entry.stage.__module__}.{entry.stage.__qualname__}\n" in page
    assert all(f"| `{name}` |" in page for name in entry.stage.model_fields if name != "use")


@pytest.mark.parametrize("entry", ours(), ids=lambda entry: f"{entry.kind}.{entry.name}")
def test_every_field_is_described(entry):
    for name, field in entry.stage.model_fields.items():
        assert name == "use" or field.description, f"{entry.name}.{name} has no description"


@pytest.mark.parametrize("name", ["selection.png", "prior.png"])
def test_pictures_are_small(name):
    assert 0 < (DOCS / "pictures" / name).stat().st_size <= LARGEST_PICTURE


def test_every_decision_is_in_the_list():
    listed = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for file in (DOCS / "decisions").glob("0*.md"):
        assert f"({file.name})" in listed
        assert f"decisions/{file.name}" in navigation
