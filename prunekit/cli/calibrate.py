"""`prunekit calibrate`: measures where a model looks whatever is in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunekit.calibration import GENERIC_PROMPT, calibrate
from prunekit.cli.answers import load_quietly
from prunekit.cli.console import note, out, print_json, progress
from prunekit.cli.images import image_files, read_image
from prunekit.errors import ConfigError, MissingPrior
from prunekit.files import load
from prunekit.pipeline import Pipeline
from prunekit.prior import Prior, cached
from prunekit.testbed import CHECKPOINT
from prunekit.writing import check_place

if TYPE_CHECKING:
    from prunekit.hf import LoadedModel


def calibrate_command(
    images: Annotated[
        list[Path], typer.Option(help="An image file or a folder of them; may be given again.")
    ],
    model: Annotated[
        str, typer.Option(help="testbed (comes with prunekit), a local folder, or a hub id.")
    ] = "testbed",
    layer: Annotated[int, typer.Option(min=0, help="The pruning layer the prior is for.")] = 2,
    prompt: Annotated[str, typer.Option(help="A generic prompt, asked about every image.")] = GENERIC_PROMPT,
    pipeline: Annotated[
        str, typer.Option(help="The pipeline whose importance stage scores: a name or a YAML file.")
    ] = "d2pruner",
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write it; by default where `prior: auto` finds it."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Measure a positional prior: the mean score over images and one generic prompt.

    A stopped run continues where it stopped. D²Pruner used 1,000 images; a few hundred do.

    Example: prunekit calibrate --model llava-hf/llava-1.5-7b-hf --layer 2 --images photos/
    """
    files = image_files(images)
    chosen = _placed(load(pipeline), layer)
    if file is not None:
        check_place(file)
        if file.suffix != ".safetensors":
            raise ConfigError(f"--out {file}: a prior is a .safetensors file.")
    loaded = load_quietly(model)
    site = chosen.site(loaded.model)
    place = file or cached(site.model, site.layer)
    if place.parent == CHECKPOINT:
        raise ConfigError("The embedded model has its own priors; say with --out where to write another.")
    prior = _measured(loaded, chosen, files, prompt, place)
    planes, rows, columns = prior.whole.shape
    if json:
        print_json(
            {"prior": str(place), "model": prior.model, "layer": layer, "prompt": prompt,
             "images": prior.images, "planes": planes, "rows": rows, "columns": columns}
        )  # fmt: skip
    else:
        out.print(str(place), markup=False, soft_wrap=True)
        note(f"The mean over {prior.images} images: {planes} planes of {rows} × {columns}.")


def _placed(pipeline: Pipeline, layer: int) -> Pipeline:
    """The pipeline at a layer: its one place moved there, or that one of several."""
    if not pipeline.stages:
        return pipeline.swap(at=pipeline.at.model_copy(update={"layer": layer}))
    found = next((cut for cut in pipeline.cuts if cut.at.layer == layer), None)
    if found is None:
        layers = ", ".join(str(cut.at.layer) for cut in pipeline.cuts)
        raise ConfigError(f"{pipeline.name} prunes at layers {layers}; say with --layer which of them.")
    return found


def measure_if_missing(loaded: LoadedModel, pipeline: Pipeline, files: Sequence[Path]) -> None:
    """Measures the prior that the pipeline finds missing for this model, and keeps it where it will look."""
    for cut in pipeline.cuts:
        site = cut.site(loaded.model)
        try:
            cut.bind(site)
        except MissingPrior:
            place = cached(site.model, site.layer)
            _measured(loaded, cut, files, GENERIC_PROMPT, place)
            note(f"Prior measured on {len(files)} images and kept in {place}.")


def _measured(
    loaded: LoadedModel, pipeline: Pipeline, files: Sequence[Path], prompt: str, place: Path
) -> Prior:
    """Measures a prior with a progress bar, going on where an earlier run on these images stopped."""
    album = sha256("\n".join(map(str, files)).encode()).hexdigest()[:8]
    with progress() as bar:
        prior = calibrate(
            loaded,
            [partial(read_image, file) for file in files],
            pipeline,
            prompt=prompt,
            unfinished=place.with_name(f"{place.name}.{album}.unfinished"),
            track=partial(bar.track, description="Measuring"),
        )
    prior.save(place)
    return prior
