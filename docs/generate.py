"""Makes what the pages show but nobody writes by hand: reference pages from the code, and the pictures.

    python docs/generate.py

The pages are checked against this file by the tests. The pictures need the embedded model and its prior.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
    from PIL import Image
    from pydantic.fields import FieldInfo

    from prunekit.card import Card
    from prunekit.testing.golden import CaseOutcome

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
PICTURES = DOCS / "pictures"
VERDICTS = {"holds": "✓", "refused": "no", "missing": "–"}
README = DOCS.parent / "README.md"
GOLDEN = DOCS.parent / "tests" / "golden" / "data"
MATRIX = DOCS.parent / "tests" / "hf" / "matrix.yaml"
COLUMNS = 80
PICTURE_WIDTH = 1000
COLOURS = 256
PRIOR_CELL = 32

NOTE = "<!-- Written by docs/generate.py; do not edit. -->"

BY_NAME = (
    "`{use: name}`, or the name alone, stands for a stage wherever a pipeline file wants one of its kind. "
    "Fields not given have the default."
)
KIND_PAGES = {
    "importance": (
        "importance",
        "Importance",
        "How much each token is worth: `(tokens) -> Scores`, higher is worth more.",
    ),
    "bias": (
        "bias",
        "Bias",
        "What a score owes to position or padding: `(tokens) -> Bias`. A pipeline has none, one, or a list "
        "taken away in turn. What for: [bias](../explanation/bias.md).",
    ),
    "graph": (
        "graphs",
        "Graphs",
        "Which tokens are too alike to keep both: `(tokens) -> Graph`. A pipeline has one or none. "
        "What for: [graphs](../explanation/graphs.md).",
    ),
    "select": (
        "select",
        "Select",
        "Which tokens to add to those kept: `(candidates, kept, room) -> Kept`. A pipeline has one, or a "
        "list called in turn.",
    ),
    "merge": (
        "merge",
        "Merge",
        "What dropped tokens leave to kept ones: `(tokens, selection) -> features`. A pipeline has one or "
        "none. What for: [merging](../explanation/merging.md).",
    ),
}
"""For each kind its page, the title, and what it says first."""

METHODS = """How many tokens are kept is known before anything runs, for every method: it is the budget's to
say, a count or a share, and no picture changes it. All that a card says is derived from the stages of the
pipeline or measured, but for its first sentence and for where it differs.

- *needs*: what is captured from the model beside the features of tokens where it prunes.
- *goes by*: what it asks of where tokens stand. Methods that go by tiles or frames are for videos.
- *depends on the question*: where it does not, what was computed of an image holds for the next question
  about it, and a prefix cache is of use.
- *pairs compared*: how many of the pairs of N tokens it may look at, of which it keeps n. On an accelerator,
  and where more than one token in ten is taken, all pairs are multiplied out at once, which is faster there.
- *golden cases*: of so many cases, how many come out as the official implementation gave them;
  `prunekit golden tests/golden/data` runs them. A pipeline without any has no official data here.
"""

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
STYLES = re.compile(r"\x1b\[[0-9;]*m")
END_OF_SCALAR = "\n...\n"


def pages() -> dict[Path, str]:
    """Every page made from code, with its text."""
    found = {f"{file}.md": kind_page(kind) for kind, (file, _, _) in KIND_PAGES.items()}
    found |= {"pipeline.md": pipeline_page(), "pipelines.md": pipelines_page(), "cli.md": command_line_page()}
    found |= {"compatibility.md": compatibility_page(), "methods.md": methods_page()}
    return {README: readme(), **{REFERENCE / name: text for name, text in found.items()}}


def kind_page(kind: str) -> str:
    """The page of a kind: for each of its stages the docstring, and a table of its fields."""
    from prunekit.registry import installed

    _, title, told = KIND_PAGES[kind]
    lines = [f"# {title}", NOTE, told, BY_NAME]
    for entry in installed().stages:
        if entry.kind == kind and _ours(entry.origin.file):
            path = f"{entry.stage.__module__}.{entry.stage.__qualname__}"
            lines += [f"## {entry.name}", _docstring_of(path), field_table(entry.stage)]
    return "\n\n".join(line for line in lines if line) + "\n"


def pipeline_page() -> str:
    """The page of pipelines as values and as files."""
    from prunekit.blocks import At, Override
    from prunekit.pipeline import Pipeline

    methods = "[cuts, parts, needs, swap, schedule, scheduled, validated, __call__, bind, attach]"
    names = (
        "budget.Budget",
        "budget.room_for",
        "files.load",
        "files.to_yaml",
        "files.with_settings",
        "schema.json_schema",
        "calibration.calibrate",
        "card.Card",
    )
    lines = [
        "# Pipeline and files",
        NOTE,
        "A pipeline as a value, and as a YAML file.",
        "## Blocks",
        "The top-level blocks of a file are the fields of `Pipeline`. A file may also have `extends`: the "
        "pipeline, by name or file, whose blocks hold where it gives none; not `summary` and `differs`, "
        "which speak of one pipeline alone.",
        field_table(Pipeline),
        "The fields of `at`, for which the word `vision` stands for `{layer: 0, features: vision}`:",
        field_table(At),
        "The blocks that each of `stages` may give:",
        field_table(Override),
        f"::: prunekit.pipeline.Pipeline\n    options:\n      members: {methods}\n      filters: []",
        *(f"::: prunekit.{name}" for name in names),
    ]
    return "\n\n".join(lines) + "\n"


def field_table(model: type[BaseModel]) -> str:
    """The fields of a stage or pipeline as a Markdown table; nothing where it has none but its name."""
    rows = [
        f"| `{name}` | {_values(field)} | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in model.model_fields.items()
        if name != "use"
    ]
    return (
        "\n".join(["| field | values | default | meaning |", "| --- | --- | --- | --- |", *rows])
        if rows
        else ""
    )


def _values(field: FieldInfo) -> str:
    """What a field takes: its words, or its type and bounds."""
    bounds = [
        f"{sign} {getattr(mark, name)}"
        for mark in field.metadata
        for name, sign in SIGNS.items()
        if getattr(mark, name, None) is not None
    ]
    if get_origin(field.annotation) is tuple:
        item = _type(get_args(field.annotation)[0])
        alone = any(isinstance(mark, BeforeValidator) for mark in field.metadata)
        return f"{item}, or a list" if alone else f"list of {item}s"
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: object) -> str:
    from prunekit.stages import Stage

    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_args(annotation):
        return " or ".join(_type(each) for each in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{annotation.kind} stage" if issubclass(annotation, Stage) else "mapping"
    return "`null`" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return "`null`" if value is None else "none"
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True).removesuffix(END_OF_SCALAR).strip()}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _docstring_of(path: str) -> str:
    """What mkdocstrings shows of a class under a heading of ours: its docstring alone."""
    hidden = ("show_root_heading", "show_root_toc_entry", "show_bases", "members")
    return "\n".join([f"::: {path}", "    options:", *(f"      {option}: false" for option in hidden)])


def _ours(file: Path) -> bool:
    """Whether a stage or pipeline comes with prunekit itself."""
    return DOCS.parent.resolve() in file.resolve().parents


def command_line_page() -> str:
    """The page of the command line: what `--help` says of each command."""
    from typer.main import get_command

    from prunekit.cli import app

    lines = [
        "# Command line",
        NOTE,
        "Results go to stdout, everything else to stderr. A user's mistake ends with exit code 2.",
        f"```text\n{help_of()}\n```",
    ]
    for name, command in getattr(get_command(app), "commands").items():  # noqa: B009
        for words in ((name,), *((name, part) for part in getattr(command, "commands", ()))):
            lines += [f"## prunekit {' '.join(words)}", f"```text\n{help_of(*words)}\n```"]
    return "\n\n".join(lines) + "\n"


def help_of(*command: str) -> str:
    """What `prunekit … --help` prints on a terminal of 80 columns, without colours."""
    from typer.testing import CliRunner

    from prunekit.cli import app

    plain = {"COLUMNS": str(COLUMNS), "TERMINAL_WIDTH": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*command, "--help"], env=plain, prog_name="prunekit")
    if result.exit_code:
        raise RuntimeError(f"prunekit {' '.join(command)} --help: {result.output}")
    lines = [line.rstrip() for line in STYLES.sub("", result.output).splitlines()]
    return "\n".join(lines).strip("\n")


def pipelines_page() -> str:
    """The page of the pipelines that come with prunekit: each file as it is shipped."""
    from prunekit.files import load
    from prunekit.registry import installed

    lines = [
        "# Pipelines",
        NOTE,
        "A method is a YAML file. These come with prunekit; `prunekit show NAME` writes every value out. The "
        "fields of the stages are on the pages of their kinds.",
    ]
    root = DOCS.parent.resolve()
    for entry in installed().pipelines:
        if not _ours(entry.origin.file):
            continue
        told = [f"{load(entry.name).summary} What it asks for: [its card](methods.md#{entry.name})."]
        file = entry.origin.file.resolve().relative_to(root).as_posix()
        lines += [f"## {entry.name}", *told, f'```yaml\n--8<-- "{file}"\n```']
    return "\n\n".join(lines) + "\n"


def methods_page() -> str:
    """The page of methods: all of them in a table, then a card each."""
    lines = ["# Methods", NOTE, METHODS.strip()]
    head = ["method", "needs", "question", "prunes", "pairs", "golden cases"]
    for family, cards in _families():
        rows = [
            [
                f"[{name}](#{name})",
                "<br>".join(card.needs) or "–",
                card.facts.get("depends on the question", "–"),
                card.prunes.replace("; ", "<br>"),
                card.compares.rpartition(": ")[2],
                _golden_cases(name) or "–",
            ]
            for name, card in cards
        ]
        lines += [f"**{family.capitalize()}**", _table(head, rows)]
    for family, cards in _families():
        lines += [f"## {family.capitalize()}", *(_card(name, card) for name, card in cards)]
    return "\n\n".join(lines) + "\n"


def _card(name: str, card: Card) -> str:
    """The card of a method."""
    from prunekit.cli.show import flow

    held = card.pipeline
    facts = {
        "papers": ", ".join(map(_link, held.cites)) or "none",
        **card.facts,
        "golden cases": _golden_cases(name) or "no official data",
        "file": f"[{name}](pipelines.md#{name})",
    }
    told = [f"### {name}", held.summary, _table(["", ""], [[*fact] for fact in facts.items()])]
    if held.differs:
        told += ["Where it differs:", "\n".join(f"- {each}" for each in held.differs)]
    return "\n\n".join([*told, f"```text\n{flow(held)}\n```"])


def _families() -> list[tuple[str, list[tuple[str, Card]]]]:
    """The cards of the pipelines that come with prunekit, by family."""
    from prunekit.card import Card
    from prunekit.cli.list import by_family
    from prunekit.files import load
    from prunekit.registry import installed

    ours = [entry for entry in installed().pipelines if _ours(entry.origin.file)]
    return [
        (family, [(entry.name, card) for entry, card in cards])
        for family, cards in by_family({entry: Card(load(entry.name)) for entry in ours})
    ]


def _golden_cases(name: str) -> str:
    """How many of the golden cases of a pipeline come out right, of how many; nothing where it has none."""
    cases = _outcomes().get(name, [])
    return f"{sum(case.passed for case in cases)}/{len(cases)}" if cases else ""


@cache
def _outcomes() -> dict[str, list[CaseOutcome]]:
    """The golden cases, run once."""
    from prunekit.testing.golden import by_pipeline, read

    return by_pipeline(read(GOLDEN))


def _link(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})"


def readme() -> str:
    """The README with its tables made anew."""
    from prunekit.registry import installed

    stages = [
        [
            kind,
            ", ".join(
                f"`{entry.name}`"
                for entry in installed().stages
                if entry.kind == kind and _ours(entry.origin.file)
            ),
        ]
        for kind in KIND_PAGES
    ]
    methods = [
        [f"`{name}`", family, ", ".join(map(_link, card.pipeline.cites)) or "–", _golden_cases(name) or "–"]
        for family, cards in _families()
        for name, card in cards
    ]
    tables = {
        "stages": _table(["kind", "stages"], stages),
        "methods": _table(["method", "family", "papers", "golden cases"], methods),
    }
    text = README.read_text(encoding="utf-8")
    for name, table in tables.items():
        start, end = f"<!-- {name}: written by docs/generate.py -->\n", "\n<!-- until here -->"
        before, after = text.split(start)
        text = f"{before}{start}\n{table}\n{after[after.index(end) :]}"
    return text


def compatibility_page() -> str:
    """The page of what works with what: the expectations that the tests hold each cell against."""
    matrix = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))
    families, ways, exceptions = matrix["families"], matrix["ways"], matrix["exceptions"]
    *some, newest = matrix["transformers"]
    releases = f"{', '.join(some)} and {newest}"

    def cell(family: str, way: str) -> str:
        notes = [
            (number, entry)
            for number, entry in enumerate(exceptions, start=1)
            if way in entry["ways"] and family in entry.get("families", families)
        ]
        newest = [entry for _, entry in notes if matrix["transformers"][-1] in _releases(entry)]
        here = [VERDICTS[entry["verdict"]] for entry in newest]
        return " ".join([*(here or ["✓"])[:1], *(f"[{number}](#notes)" for number, _ in notes)])

    lines = [
        "# Compatibility",
        NOTE,
        f"Tested with transformers {releases}, on tiny models of each family with random weights, with "
        "`sdpa` and with `eager` attention, at a layer inside, before the language model, and in two steps. "
        "In a cell with ✓, keep-all gives what the model gives without "
        "prunekit, bit by bit; and with tokens dropped it gives what a slow reference does, which runs all "
        "again at each step and masks the dropped tokens from the pruning layer on. The tests hold every "
        "cell to what it says.",
        _table(
            ["", *ways], [[told, *(cell(family, way) for way in ways)] for family, told in families.items()]
        ),
        "## Ways",
        "Each batch has a row with two images and one with one, of different sizes where a family has them.",
        _table(["way", "what it is"], [[f"{way}", told] for way, told in ways.items()]),
        "## Notes",
        "*no* is refused with a reason, before the model computes anything; *–* fails without prunekit, too.",
        "\n".join(f"{number}. {_note(entry)}" for number, entry in enumerate(exceptions, start=1)),
        "## Models that are refused",
        "Any other model with an `image_token_id` and a decoder of ordinary layers is taken, and prunekit "
        "says so where it has to [guess at its grid](../how-to/add-a-model.md). Some that are refused when "
        "attaching:",
        _table(
            ["model", "because of"],
            [[f"`{name}`", entry["because"]] for name, entry in matrix["refused models"].items()],
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _releases(entry: dict[str, str]) -> SpecifierSet:
    """The releases of transformers in which an exception is one."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(entry.get("transformers", ""))


def _note(entry: dict[str, str]) -> str:
    releases = entry.get("transformers")
    return f"With transformers {releases}: {entry['because']}" if releases else entry["because"]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_selection() -> None:
    """What D²Pruner keeps of a held-out scene."""
    from PIL import Image

    from prunekit import hf, load
    from prunekit.cli import pictures
    from prunekit.testbed import scene

    loaded, shown = hf.load("testbed"), scene(0)
    question = shown.questions[0].text
    image = Image.fromarray(shown.image)
    inputs = hf.prompt_inputs(loaded.processor, [image], [question]).to(loaded.model.device)
    with load("d2pruner-grounding").swap(budget=0.1).attach(loaded.model) as pruning:
        loaded.model.generate(**inputs, max_new_tokens=5)
    sheet = pictures.draw_selection(image, pictures.Cells.of(pruning.selections[0]), question)
    height = round(sheet.height * PICTURE_WIDTH / sheet.width)
    _save(sheet.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS), "selection.png")


def draw_prior() -> None:
    """The prior of the embedded model: the mean score at each place, in the colours of `--plot`."""
    import numpy as np
    from PIL import Image

    from prunekit.cli.pictures import HEAT
    from prunekit.prior import Prior
    from prunekit.testbed import CHECKPOINT

    values = Prior.load(CHECKPOINT / "prior-layer2.safetensors").tile.numpy()
    level = (values - values.min()) / (np.ptp(values) or 1) * (len(HEAT) - 1)
    stops = np.arange(len(HEAT))
    colours = np.stack([np.interp(level, stops, HEAT[:, channel]) for channel in range(3)], -1)
    size = (values.shape[1] * PRIOR_CELL, values.shape[0] * PRIOR_CELL)
    cells = Image.fromarray(colours.round().astype(np.uint8))
    _save(cells.resize(size, Image.Resampling.NEAREST), "prior.png")


def _save(picture: Image.Image, name: str) -> None:
    """Writes a small PNG."""
    from PIL import Image

    PICTURES.mkdir(exist_ok=True)
    small = picture.convert("RGB").quantize(COLOURS, kmeans=4, dither=Image.Dither.NONE)
    small.save(PICTURES / name, optimize=True)


def main() -> None:
    """Writes the pages, then the pictures."""
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
    draw_prior()
    draw_selection()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
