"""`prunekit show`: one pipeline, as resolved YAML, as a picture of its data flow, and as a card."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from prunekit.card import Card
from prunekit.cli.console import out, print_json
from prunekit.files import load, to_yaml
from prunekit.pipeline import Pipeline
from prunekit.stages import Stage


def show(
    name: Annotated[str, typer.Argument(help="The name of an installed pipeline, or a YAML file.")],
    json: Annotated[bool, typer.Option("--json", help="Print the pipeline as JSON.")] = False,
) -> None:
    """Show a pipeline with every value written out, how data flows through it, and what it asks for.

    Example: prunekit show d2pruner
    """
    pipeline = load(name)
    if json:
        print_json(pipeline.model_dump(mode="json"))
        return
    out.print(Syntax(to_yaml(pipeline), "yaml", background_color="default"))
    out.print(escape(flow(pipeline)), soft_wrap=True)
    out.print()
    out.print(_facts(Card(pipeline)))


def flow(pipeline: Pipeline) -> str:
    """The one figure, with this pipeline's stages in it; once for each place where it prunes."""
    figures = "\n".join(_figure(cut) for cut in pipeline.cuts)
    return f"{figures}\n  ─► selection; kept tokens {pipeline.positions} their position ids"


def _facts(card: Card) -> Table:
    table = Table.grid(padding=(0, 2))
    for title, told in card.facts.items():
        table.add_row(Text(title, style="bold"), Text(told))
    return table


def _figure(pipeline: Pipeline) -> str:
    budget = pipeline.budget
    keep = f"{budget} tokens" if isinstance(budget, int) else f"{budget:.4g} of the tokens"
    carrying = ", with features of the vision encoder" if pipeline.at.features == "vision" else ""
    lines = [f"visual tokens entering layer {pipeline.at.layer}{carrying}"]
    lines.append(f"  ├─ importance ─► {_told(pipeline.importance)} ─► scores")
    lines.extend(f"  ├─ bias ───────► {_told(bias)} ─► taken from scores" for bias in pipeline.bias)
    if pipeline.graph is not None:
        lines.append(f"  ├─ graph ──────► {_told(pipeline.graph)} ─► who is like whom")
    corner, side = ("└", " ") if pipeline.merge is None else ("├", "│")
    lines.append(f"  {corner}─ select, keeping {keep}:")
    lines.extend(f"  {side}    {step}. {_told(selector)}" for step, selector in enumerate(pipeline.select, 1))
    if pipeline.merge is not None:
        lines.append(f"  └─ merge ──────► {_told(pipeline.merge)} ─► what dropped tokens leave to kept ones")
    return "\n".join(lines)


def _told(stage: Stage) -> str:
    """A stage in one line: its name, and its fields."""
    fields = ", ".join(f"{name}={_value(value)}" for name, value in stage.__dict__.items() if name != "use")
    return f"{stage.use}({fields})"


def _value(value: object) -> str:
    if isinstance(value, Stage):
        return _told(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"  # pyright: ignore[reportUnknownArgumentType]
    return str(value)
