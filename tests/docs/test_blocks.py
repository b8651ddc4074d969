"""What the pages show works: Python runs, YAML loads, commands and their options exist."""

from __future__ import annotations

import shlex

import pytest
import yaml
from pages import ROOT, Block, blocks, pages
from typer.main import get_command

import prunekit as pk
from prunekit.cli import app
from prunekit.testbed import CHECKPOINT

NOT_RUN = "not run"
NOT_A_PIPELINE = "not a pipeline"
OPERATORS = {"|", ">", ">>", "&&", ";"}
COMMANDS = get_command(app).commands


def given(page) -> dict:
    """What the reader of a page is told to have; only the README speaks of a model without naming one."""
    if page != ROOT / "README.md":
        return {}
    from PIL import Image

    from prunekit import hf
    from prunekit.testbed import scene

    loaded, shown = hf.load("testbed"), scene(0)
    inputs = hf.prompt_inputs(loaded.processor, [Image.fromarray(shown.image)], [shown.questions[0].text])
    return {"model": loaded.model, "inputs": inputs.to(loaded.model.device)}


def name(page) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in pages() if blocks("python", page)], ids=name)
def test_python_runs(page, tmp_path, monkeypatch):
    """All blocks of a page in one namespace, in order, in an empty folder; then the tests among them."""
    run = [block for block in blocks("python", page) if not block.excused(NOT_RUN)]
    needs_model = page == ROOT / "README.md" or any('hf.load("testbed")' in block.text for block in run)
    if needs_model and not CHECKPOINT.is_dir():
        pytest.skip("the embedded model is missing from this checkout (prunekit/testbed/checkpoint)")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "a_page", **given(page)}
    for block in run:
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, namespace)
    for title, test in list(namespace.items()):
        if title.startswith("test_"):
            test()


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_yaml_is_a_pipeline(block: Block, tmp_path):
    """Every YAML block is a pipeline file, unless it says why not."""
    if block.excused(NOT_A_PIPELINE):
        assert isinstance(yaml.safe_load(block.text), dict)
        return
    text = block.text
    if text.startswith("--8<-- "):
        text = (ROOT / shlex.split(text)[1]).read_text(encoding="utf-8")
    file = tmp_path / "page.yaml"
    file.write_text(text, encoding="utf-8")
    assert pk.load(file).select


def commands(block: Block) -> list[list[str]]:
    """The `prunekit …` commands of a console block, as words."""
    found = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            end = next((place for place, word in enumerate(words) if word in OPERATORS), len(words))
            if words[:1] == ["prunekit"]:
                found.append(words[1:end])
    return found


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.place)
def test_commands_exist(block: Block):
    """Every command is parsed, and its options with it; none is run."""
    for words in commands(block):
        name, command, given = _found(words)
        assert command is not None, f"{block.place}: there is no command prunekit {name}."
        command.make_context(name, given)


def _found(words: list[str]):
    """The command that words name, and what it is given; commands of commands are looked into."""
    name, *given = words
    command = COMMANDS.get(name)
    while parts := getattr(command, "commands", None):
        name = f"{name} {given[0]}"
        command, given = parts.get(given[0]), given[1:]
    return name, command, given


def test_a_wrong_option_would_be_found():
    with pytest.raises(Exception, match="No such option"):
        COMMANDS["run"].make_context("run", ["--imagine", "photo.jpg"])


def test_an_excuse_needs_a_reason():
    block = Block(ROOT / "README.md", 1, "python", "", " not run: ")
    with pytest.raises(ValueError, match="say why"):
        block.excused(NOT_RUN)


def test_blocks_are_found():
    assert len(blocks("python")) > 40
    assert len(blocks("yaml")) > 10
    assert len(blocks("console")) > 10
