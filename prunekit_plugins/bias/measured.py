"""Bias as measured: the mean of scores over many images, which is what position alone is worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from prunekit import (
    Bias,
    BiasEstimator,
    ConfigError,
    Site,
    Stage,
    TokenBatch,
    UnknownName,
    Where,
    hookimpl,
)
from prunekit.errors import MissingPrior, nearest
from prunekit.prior import Prior, cached
from prunekit.testbed import CHECKPOINT


class Measured(BiasEstimator):
    """The mean score at a token's place over calibration images with one generic prompt.

    The A_bias of D²Pruner (arXiv:2512.19443); with `removal: ratio` the debiased score is its
    A_rel = A_ori / (A_bias + 1e-7).

    Raises:
        ConfigError: No prior is known for the model and layer, or the file holds none.
    """

    use: Literal["measured"] = "measured"
    prior: str = Field(
        "auto",
        description="auto: the one measured for the model and layer, beside its weights or in the user's "
        "cache; else the name of a shipped prior (testbed-layer2), or a path to a .safetensors file.",
    )
    removal: Literal["ratio", "difference"] = Field(
        "ratio", description="Divide scores by the bias, or subtract it."
    )
    epsilon: float = Field(1e-7, ge=0, description="Added to the bias before dividing by it.")
    layout: Literal["tile", "whole"] = Field(
        "tile",
        description="For models that tile images: one map for every tile, pooled over all tiles and the "
        "thumbnail, or one for each plane of the whole layout.",
    )
    resize: Literal["bilinear", "linear"] = Field(
        "bilinear",
        description="How the map is fitted to another grid: in two dimensions, or in raster order.",
    )

    def bind(self, site: Site) -> Self:
        if self.prior != "auto":
            _file(self.prior)
            return self
        file = cached(site.model, site.layer)
        if file.is_file():
            return self.model_copy(update={"prior": str(file)})
        raise MissingPrior(
            f"bias.prior: no prior is known for the model {site.model or 'made in memory'!r} at layer "
            f"{site.layer}. Measure one: "
            f"prunekit calibrate --model {site.model} --layer {site.layer} --images FOLDER, or give "
            "prunekit run --prior-images FOLDER. Or name a file, bias: {use: measured, prior: FILE}, or go "
            "without, bias: null."
        )

    @property
    def where(self) -> frozenset[Where]:
        return frozenset({"cell"})

    def __call__(self, tokens: TokenBatch) -> Bias:
        if self.prior == "auto":
            raise ConfigError(
                "bias.prior: `auto` finds the prior of the model a pipeline is attached to; these tokens "
                f"come from nowhere. Give a path, or one of: {', '.join(_shipped())}."
            )
        file = _file(self.prior)
        prior = _read(file, file.stat().st_mtime_ns)
        values = prior.at(tokens.positions, tokens.present, self.layout, self.resize)
        return Bias(values, self.removal, self.epsilon)


def _file(prior: str) -> Path:
    path = Path(prior)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise ConfigError(f"bias.prior: there is no prior file {prior!r}.")
        return path
    if prior not in _shipped():
        raise UnknownName(
            f"bias.prior: there is no shipped prior {prior!r}, and a file ends in .safetensors. "
            f"{nearest(prior, _shipped())}"
        )
    return _shipped()[prior]


@cache
def _shipped() -> dict[str, Path]:
    """The priors that come with prunekit, by name: those of the embedded model."""
    files = sorted(CHECKPOINT.glob("prior-*.safetensors"))
    return {file.stem.replace("prior", "testbed"): file for file in files}


@lru_cache(maxsize=16)
def _read(file: Path, written: int) -> Prior:
    """The prior in a file, read anew when the file was written anew."""
    del written
    return Prior.load(file)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [Measured]
