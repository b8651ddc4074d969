"""`prunekit demo`: D²Pruner beside its baselines on the embedded model, in under a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image
from rich.table import Table

from prunekit.budget import parse_budget
from prunekit.cli.answers import answers, load_quietly, model_inputs
from prunekit.cli.console import note, out, print_json, progress
from prunekit.cli.pictures import Cells, draw_selection, png
from prunekit.files import load
from prunekit.pipeline import Pipeline
from prunekit.testbed import GRID, Question, Scene, grade, scenes
from prunekit.writing import check_place, write_whole

if TYPE_CHECKING:
    from prunekit.hf import LoadedModel, Report
    from prunekit.tokens import Selection

UNPRUNED = "none"
DRAWN = "d2pruner-grounding"
PIPELINES = ("d2pruner-grounding", "d2pruner", "fastv", "random", "uniform_grid")
ANSWER_TOKENS = 5
BATCH = 240
RESAMPLES = 2000
FLOPS = "exact"
CAPTION = (
    "general: colour, shape, count and existence. Acc@0.5: boxes that overlap the right one by half. "
    "±: half a 95 % interval, by resampling scenes. Tokens are dropped at the entry of layer {layer}: this "
    "small model has read most of a picture after two of its six layers, so later than 1 methods differ "
    "little (try --layer 2). FLOPs: of reading the prompt, convention `exact`. Times: a question, in "
    "batches of {batch}. random and uniform_grid look at nothing."
)


@dataclass(frozen=True, slots=True)
class Row:
    """How one pipeline did.

    Accuracies are shares in [0, 1], each with half the width of its 95 % interval; `flops_reduction` is one
    too. Milliseconds are for one question.
    """

    pipeline: str
    general: float
    general_ci95: float
    loc50: float
    loc50_ci95: float
    tokens: int
    kept: int
    flops_reduction: float
    select_ms: float
    prefill_ms: float


def demo(
    scene_count: Annotated[
        int, typer.Option("--scenes", min=1, max=2000, help="How many held-out scenes.")
    ] = 40,
    budget: Annotated[str, typer.Option(help="Tokens to keep: a count (14) or a share (0.1).")] = "0.1",
    layer: Annotated[
        int, typer.Option(min=1, max=5, help="Where tokens are dropped: the entry of this decoder layer.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another set of scenes.")] = 0,
    plot: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("prunekit-demo.png"),
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Prune the embedded model with D²Pruner and with baselines, and compare answers, cost and time.

    Example: prunekit demo --scenes 100 --budget 0.2
    """
    room = parse_budget(budget)
    check_place(plot)
    loaded = load_quietly("testbed")
    asked = [(scene, question) for scene in scenes(scene_count, seed) for question in scene.questions]
    rows: list[Row] = []
    _one_batch(loaded, asked[:BATCH], None)  # warms up: the first batch of a size pays for its memory
    with progress() as bar:
        for name in bar.track((UNPRUNED, *PIPELINES), description="Pruning"):
            changes = {"budget": room, "at": {"layer": layer}}
            pipeline = None if name == UNPRUNED else load(name).swap(**changes)
            trials = _tried(loaded, asked, pipeline)
            rows.append(_row(name, trials, asked))
            if name == DRAWN and trials[0].selection is not None:
                _draw(plot, asked, trials[0], trials[0].selection)
    if json:
        conditions = {"scenes": scene_count, "seed": seed, "layer": layer, "flops_convention": FLOPS}
        print_json({"rows": [asdict(row) for row in rows], **conditions})
    else:
        out.print(_table(rows, scene_count))
        note(CAPTION.format(layer=layer, batch=min(BATCH, len(asked))))
        note(f"Picture written to {plot}.")


Asked = Sequence[tuple[Scene, Question]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One pipeline on one batch of questions; without a report where nothing was pruned."""

    given: Sequence[str]
    prefill_ms: float
    report: Report | None = None
    selection: Selection | None = None


def _tried(loaded: LoadedModel, asked: Asked, pipeline: Pipeline | None) -> list[Trial]:
    """The trials of a pipeline, batch by batch."""
    starts = range(0, len(asked), BATCH)
    return [_one_batch(loaded, asked[start : start + BATCH], pipeline) for start in starts]


def _one_batch(loaded: LoadedModel, asked: Asked, pipeline: Pipeline | None) -> Trial:
    from prunekit import hf

    images = [Image.fromarray(scene.image) for scene, _ in asked]
    inputs = model_inputs(loaded, images, [question.text for _, question in asked])
    if pipeline is None:
        with hf.timed(loaded.model) as timing:
            given = answers(loaded, inputs, ANSWER_TOKENS)
        return Trial(given, timing.prefill_ms)
    with pipeline.attach(loaded.model) as pruning:
        given = answers(loaded, inputs, ANSWER_TOKENS)
    report = pruning.report()
    return Trial(given, report.prefill_ms, report, pruning.selections[0].without_graph())


def _row(name: str, trials: Sequence[Trial], asked: Asked) -> Row:
    given = [text for trial in trials for text in trial.given]
    correct = [grade(question, text).correct for (_, question), text in zip(asked, given, strict=True)]
    where = [question.box is not None for _, question in asked]
    owners = [scene.seed for scene, _ in asked]
    general, general_ci = _share(correct, owners, [not located for located in where])
    located, located_ci = _share(correct, owners, where)
    report = trials[0].report
    costs = [trial.report.flops[FLOPS] for trial in trials if trial.report]
    flops = sum(cost.after for cost in costs) / sum(cost.before for cost in costs) if costs else 1.0
    return Row(
        pipeline=name,
        general=general,
        general_ci95=general_ci,
        loc50=located,
        loc50_ci95=located_ci,
        tokens=report.visual_before[0] if report else GRID**2,
        kept=report.visual_after[0] if report else GRID**2,
        flops_reduction=1 - flops,
        select_ms=sum(trial.report.select_ms for trial in trials if trial.report) / len(asked),
        prefill_ms=sum(trial.prefill_ms for trial in trials) / len(asked),
    )


def _share(correct: Sequence[bool], owners: Sequence[int], counted: Sequence[bool]) -> tuple[float, float]:
    """The share of correct among the counted, and half its 95 % interval, by resampling whole scenes."""
    scene_of = np.unique(np.array(owners), return_inverse=True)[1]
    weight = np.array(counted, dtype=float)
    right = np.bincount(scene_of, np.array(correct, dtype=float) * weight)
    total = np.bincount(scene_of, weight)
    draws = np.random.default_rng(0).integers(len(total), size=(RESAMPLES, len(total)))
    resampled = right[draws].sum(1) / np.maximum(total[draws].sum(1), 1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(right.sum() / max(total.sum(), 1)), float((high - low) / 2)


def _draw(plot: Path, asked: Asked, trial: Trial, selection: Selection) -> None:
    """The first question for a place, and which tokens answered it."""
    sample = next(number for number, (_, question) in enumerate(asked) if question.box is not None)
    scene, question = asked[sample]
    title = f"{question.text}   {DRAWN}: {trial.given[sample]}   (right: {question.answer})"
    picture = draw_selection(Image.fromarray(scene.image), Cells.of(selection, sample), title)
    write_whole(plot, png(picture))


def _table(rows: Sequence[Row], scene_count: int) -> Table:
    table = Table(
        title=f"The embedded model on {scene_count} held-out scenes, six questions each",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    table.add_column("pipeline", no_wrap=True)
    for column in ("general %", "Acc@0.5 %", "tokens", "FLOPs", "select", "prefill"):
        table.add_column(column, justify="right")
    for row in rows:
        pruned = row.pipeline != UNPRUNED
        table.add_row(
            row.pipeline,
            f"{100 * row.general:.1f} ± {100 * row.general_ci95:.1f}",
            f"{100 * row.loc50:.1f} ± {100 * row.loc50_ci95:.1f}",
            f"{row.kept}/{row.tokens}",
            f"−{row.flops_reduction:.1%}" if pruned else "",
            f"{row.select_ms:.2f} ms" if pruned else "",
            f"{row.prefill_ms:.2f} ms",
        )
    return table
