"""`prunekit run`: one question about your images, answered with and without pruning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from prunekit.budget import parse_budget
from prunekit.cli.answers import answers, load_quietly, model_inputs, seen_by_model
from prunekit.cli.calibrate import measure_if_missing
from prunekit.cli.console import note, out, print_json, progress
from prunekit.cli.html import write_report
from prunekit.cli.images import image_files, read_image
from prunekit.cli.outcome import Outcome
from prunekit.cli.pictures import png, stack
from prunekit.errors import ConfigError
from prunekit.files import load, with_settings
from prunekit.pipeline import Pipeline
from prunekit.writing import check_place, write_whole

if TYPE_CHECKING:
    from prunekit.hf import LoadedModel


def run(
    image: Annotated[list[Path], typer.Option(help="An image file or a folder of them; may be given again.")],
    prompt: Annotated[str, typer.Option(help="The question, the same for every image.")],
    model: Annotated[
        str, typer.Option(help="testbed (comes with prunekit), a local folder, or a hub id.")
    ] = "testbed",
    pipeline: Annotated[
        str, typer.Option(help="The name of an installed pipeline, or a YAML file.")
    ] = "d2pruner-grounding",
    budget: Annotated[
        str | None, typer.Option(help="Tokens to keep: a count (64) or a share (0.1, 1.0).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one value of the pipeline: graph.alpha=0.5. May be given again."),
    ] = None,
    prior_images: Annotated[
        list[Path] | None,
        typer.Option(help="Images to measure the model's prior on, once, if the pipeline wants one."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 64,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: image, scores and the kept tokens.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of every token why it was kept or dropped.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write one HTML file: pictures, answers, numbers, every token.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as a JSON list.")] = False,
) -> None:
    """Answer a question about images, with and without pruning, and report what pruning saved.

    Example: prunekit run --image photo.jpg --prompt "where is the red ring?" --plot kept.png
    """
    if not prompt.strip():
        raise ConfigError("--prompt is empty; ask something.")
    for place in (plot, report):
        if place is not None:
            check_place(place)
    files = image_files(image)
    chosen = load(pipeline)
    if budget is not None:
        chosen = chosen.swap(budget=parse_budget(budget))
    if set_:
        chosen = with_settings(chosen, set_)
    loaded = load_quietly(model)
    if prior_images:
        measure_if_missing(loaded, chosen, image_files(prior_images))
    outcomes: list[Outcome] = []
    with progress() as bar:
        for file in bar.track(files, description="Answering"):
            outcomes.append(_asked(loaded, chosen, file, prompt, max_new_tokens, explain or bool(report)))
    if plot is not None:
        write_whole(plot, png(stack([outcome.drawn() for outcome in outcomes])))
        note(f"Picture written to {plot}.")
    if report is not None:
        write_report(outcomes, report)
        note(f"Report written to {report}.")
    if json:
        print_json([outcome.as_data() for outcome in outcomes])
        return
    out.print(_table(outcomes, prompt))
    out.print(str(outcomes[-1].report), markup=False, soft_wrap=True)
    for outcome in outcomes if explain else ():
        out.print(_explanations(outcome))


def _asked(
    loaded: LoadedModel, pipeline: Pipeline, file: Path, prompt: str, max_new_tokens: int, explain: bool
) -> Outcome:
    picture = read_image(file)
    inputs = model_inputs(loaded, [picture], [prompt])
    with pipeline.attach(loaded.model) as pruning:
        pruned = answers(loaded, inputs, max_new_tokens)
    unpruned = answers(loaded, inputs, max_new_tokens)
    selection = pruning.selections[0]
    return Outcome(
        pipeline=pipeline,
        file=file,
        prompt=prompt,
        seen=seen_by_model(loaded, inputs) or picture,
        answer=pruned[0],
        answer_unpruned=unpruned[0],
        selection=selection.without_graph(),
        explanations=selection.explanations(0) if explain else (),
        report=pruning.report(),
    )


def _table(outcomes: list[Outcome], prompt: str) -> Table:
    columns = ("image", "pruned", "unpruned", "tokens", "kept")
    table = Table(*columns, title=Text(prompt), box=None, pad_edge=False)
    for outcome in outcomes:
        data = outcome.as_data()
        cells = (outcome.file.name, outcome.answer, outcome.answer_unpruned, data["tokens"], data["kept"])
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _explanations(outcome: Outcome) -> Table:
    """The kept tokens first, in the order of their indices, then the dropped ones."""
    columns = ("token", "plane, row, column", "score", "bias", "debiased", "kept by", "suppressed by")
    table = Table(*columns, title=Text(outcome.file.name), box=None, pad_edge=False)
    for token in sorted(outcome.explanations, key=lambda each: each.kept_by is None):
        table.add_row(
            str(token.token),
            ", ".join(map(str, token.position)),
            f"{token.score:.4g}",
            " ".join(f"{bias:.4g}" for bias in token.biases),
            f"{token.debiased:.4g}",
            Text(token.kept_by or ""),
            "" if token.suppressed_by is None else str(token.suppressed_by),
        )
    return table
