"""`prunekit budget`: from a target to the budget of each layer, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
import yaml
from rich.table import Table

from prunekit.cli.console import note, out, print_json
from prunekit.errors import ConfigError
from prunekit.files import load
from prunekit.pipeline import Pipeline
from prunekit.schedule import Schedule, average_tokens, saving, schedule_for_average, schedule_for_saving

if TYPE_CHECKING:
    from prunekit.hf.shape import Shape

Convention = Literal["exact", "unmasked", "fastv", "fastv-visual"]

MOST = 10**9
"""More tokens than any prompt has."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is read: so many visual and other tokens, by a decoder of a shape."""

    shape: Shape
    visual: int
    text: int

    def cost(self, convention: Convention, counts: tuple[int, ...]) -> float:
        """The operations for so many visual tokens in each layer."""
        from prunekit.hf.flops import flops

        return flops(self.shape, self.text, counts, convention)

    def told(self, schedule: Schedule) -> dict[str, Any]:
        """What a schedule comes to."""
        depth = len(self.shape.layers)
        savings = {
            convention: saving(schedule, self.visual, depth, partial(self.cost, convention))
            for convention in get_args(Convention)
        }
        return {
            "layers": list(schedule.layers),
            "kept": list(schedule.kept),
            "average": average_tokens(schedule, self.visual, depth),
            "saving": savings,
        }


def budget(
    pipeline: Annotated[
        str, typer.Option(help="The name of an installed pipeline, or a YAML file.")
    ] = "fastv",
    model: Annotated[
        str, typer.Option(help="testbed, a local folder, or a hub id; only its configuration is read.")
    ] = "testbed",
    visual: Annotated[int, typer.Option(min=1, max=MOST, help="Visual tokens of a prompt.")] = 576,
    text: Annotated[int, typer.Option(min=0, max=MOST, help="Its other tokens.")] = 64,
    average: Annotated[
        float | None, typer.Option(help="The target: visual tokens on average over the layers.")
    ] = None,
    save: Annotated[
        float | None, typer.Option(help="The target: the share of FLOPs to save, 0.75 for three quarters.")
    ] = None,
    convention: Annotated[
        Convention,
        typer.Option(help="How FLOPs are counted for --save."),
    ] = "exact",
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Find the budget of each pruning layer for a target, or say what a pipeline's budgets come to.

    The counts relate to each other as the pipeline's own do.

    Example: prunekit budget --pipeline fastv --average 192 --visual 576
    """
    from prunekit.hf import decoder_shape

    if average is not None and save is not None:
        raise ConfigError("--average and --save are two targets; give one.")
    chosen, prompt = load(pipeline), Prompt(decoder_shape(model), visual, text)
    own = chosen.schedule(visual)
    depth = len(prompt.shape.layers)
    if own.layers[-1] >= depth:
        raise ConfigError(f"{chosen.name} prunes at layer {own.layers[-1]}; {model} has {depth} layers.")
    found = own
    if average is not None:
        found = schedule_for_average(average, layers=own.layers, visual=visual, depth=depth, ratios=own.kept)
    elif save is not None:
        cost = partial(prompt.cost, convention)
        found = schedule_for_saving(
            save, cost, layers=own.layers, visual=visual, depth=depth, ratios=own.kept
        )
    told = {"pipeline": chosen.name, "model": model, "visual": visual, "text": text, **prompt.told(found)}
    if json:
        print_json(told)
        return
    out.print(_table(told))
    if found != own:
        out.print(_blocks(chosen.scheduled(found), pipeline), markup=False, soft_wrap=True)
    note("Savings are of the prefill of the language model, by each convention of counting.")


def _table(told: dict[str, Any]) -> Table:
    title = f"{told['pipeline']} on {told['model']}: {told['visual']} visual tokens, {told['text']} others"
    table = Table(title=title, box=None, pad_edge=False, show_header=False, title_justify="left")
    cuts = zip(told["layers"], told["kept"], strict=True)
    table.add_row("kept", ", ".join(f"{kept} from layer {layer}" for layer, kept in cuts))
    table.add_row("tokens on average", f"{told['average']:.1f}")
    for name, share in told["saving"].items():
        table.add_row(f"FLOPs ({name})", f"−{share:.1%}")
    return table


def _blocks(pipeline: Pipeline, asked: str) -> str:
    """What to write in a file, wherever it lies, that extends the pipeline that was asked for."""
    file = Path(asked)
    data: dict[str, Any] = {"extends": str(file.resolve()) if file.suffix in {".yaml", ".yml"} else asked}
    if pipeline.stages:
        data["stages"] = pipeline.model_dump(mode="json")["stages"]
    else:
        data["budget"] = pipeline.budget
    return yaml.safe_dump(data, sort_keys=False)
