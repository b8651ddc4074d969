"""`prunekit doctor`: can this model be pruned, and how would prunekit see it?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from prunekit.cli.console import note, out, print_json
from prunekit.cli.images import read_image
from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.files import load
from prunekit.registry import installed
from prunekit.testbed import CHECKPOINT

if TYPE_CHECKING:
    from prunekit.hf import Pruning
    from prunekit.hf.anatomy import Held, Layout
    from prunekit.hf.doctor import Diagnosis

UNFIT = 1
EXAMPLE = CHECKPOINT.parent / "photographs" / "chelsea.jpg"
QUESTION = "Describe the image."
MAIN = {"importance": "feature_norm"}
OTHERS: dict[str, dict[str, Any]] = {
    "attention of the layer before": {},
    "attention of the layer itself": {"importance": {"use": "text_attention", "layer": "same"}},
    "padding around images": {"importance": "feature_norm", "bias": "padding"},
    "positions: repack": {"importance": "feature_norm", "positions": "repack"},
    "layer 0": {"importance": "feature_norm", "at": {"layer": 0}},
    "vision": {"importance": "feature_norm", "at": "vision"},
    "attention in the vision encoder": {"importance": "vision_attention"},
}
"""Ways to attach, by what differs in them from FastV at the layer that is asked for."""

KNOWN = {
    "plugin": "as the adapter {} of a plugin says",
    "family": "as its family lays them out",
    "inputs": "as its processor says",
    "guess": "a guess: write an adapter if it is wrong",
}


def doctor(
    model: Annotated[
        str, typer.Option(help="testbed, a random model (random-llava-small), a local folder, or a hub id.")
    ] = "testbed",
    layer: Annotated[int, typer.Option(min=0, help="The layer to prune at.")] = 2,
    image: Annotated[
        Path | None, typer.Option(help="A picture to try it on. By default one that comes with prunekit.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to ask about it.")] = QUESTION,
    json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Check whether a model can be pruned: how prunekit sees it, and what comes of trying.

    Exit code 0 where all that is needed works, 1 where not.

    Example: prunekit doctor --model llava-hf/llava-1.5-7b-hf
    """
    diagnosis = _diagnosis(model, layer, image or EXAMPLE, prompt)
    if json:
        print_json({**asdict(diagnosis), "healthy": diagnosis.healthy})
    else:
        out.print(_facts(diagnosis))
        out.print(_checks(diagnosis))
        verdict = "can be pruned" if diagnosis.healthy else "cannot be pruned"
        out.print(f"{model} {verdict} at layer {layer}.", markup=False, soft_wrap=True)
        if any(not check.ok and not check.needed for check in diagnosis.checks):
            note("What fails and is not needed only rules out pipelines that ask for it.")
    if not diagnosis.healthy:
        raise typer.Exit(UNFIT)


def _diagnosis(name: str, layer: int, image: Path, prompt: str) -> Diagnosis:
    from prunekit.cli.answers import load_quietly, model_inputs
    from prunekit.hf.anatomy import Anatomy
    from prunekit.hf.doctor import Way, examine, unfit

    picture = read_image(image)
    try:
        loaded = load_quietly(name)
    except UnsupportedModel as error:
        return unfit(name, "is a model that sees", error)
    try:
        inputs = model_inputs(loaded, [picture], [prompt])
    except PrunekitError as error:
        return unfit(name, "takes a prompt", error, Anatomy.of(loaded.model))

    def way(name: str, changes: dict[str, Any]) -> Way:
        def attach(share: float) -> AbstractContextManager[Pruning]:
            blocks = {"at": {"layer": layer}, "budget": share, **changes}
            return load("fastv").swap(**blocks).attach(loaded.model)

        return Way(name, attach)

    others = [way(name, changes) for name, changes in OTHERS.items()]
    return examine(loaded, inputs, way(f"layer {layer}", MAIN), others, adapters=installed().adapters)


def _facts(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _told(diagnosis):
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _told(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    parts = diagnosis.anatomy
    if parts is not None:
        yield (
            "model",
            f"{parts.kind}, {parts.parameters / 1e6:,.1f} M parameters, {parts.dtype} on {parts.device}",
        )
        yield "decoder", f"{parts.decoder}, {parts.layers} layers, {parts.attention} attention"
        yield "visual token ids", ", ".join(map(str, parts.visual_ids)) or "none"
    if diagnosis.layout is not None:
        yield "image", _lie(diagnosis.layout)
    if diagnosis.cache:
        yield "cache", ", ".join(map(_holds, diagnosis.cache))


def _lie(layout: Layout) -> str:
    sizes: dict[tuple[int, int], int] = {}
    for plane in layout.planes:
        sizes[plane] = sizes.get(plane, 0) + 1
    planes = ", ".join(f"{count} of {rows} × {columns}" for (rows, columns), count in sizes.items())
    return f"{layout.tokens} tokens, planes: {planes}; {KNOWN[layout.known].format(layout.adapter)}"


def _holds(held: Held) -> str:
    return f"{held.layers} × {held.kind}{', a sliding window' if held.sliding else ''}"


def _checks(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in diagnosis.checks:
        sign = Text("✓", "green") if check.ok else Text("✗", "bold red" if check.needed else "yellow")
        table.add_row(sign, Text(check.name), Text(check.why))
    return table
