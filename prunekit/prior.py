"""A measured prior: the mean of scores over calibration images, by place; what position alone is worth.

Kept as safetensors: `whole`, the mean score at each place of each plane, and `counts`, over how many images,
with where they come from in the metadata.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prunekit.errors import ConfigError, TokenError
from prunekit.kernels.engine import engine_for
from prunekit.kernels.planes import extents
from prunekit.kernels.resizing import resized_at
from prunekit.tokens import Selection
from prunekit.writing import write_whole

Layout = Literal["tile", "whole"]
Resize = Literal["bilinear", "linear"]


def cached(model: str, layer: int) -> Path:
    """Where the prior of a model is kept: beside the weights of a local model, else in the user's cache."""
    name = f"prior-layer{layer}.safetensors"
    if Path(model).is_dir():
        return Path(model) / name
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "prunekit" / "priors" / model.replace("/", "--") / name


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Mean scores by place.

    Attributes:
        whole: The mean score at each place of each plane of the layout.
        counts: Over how many images each plane was averaged.
        model: The model it was measured on.
        layer: The pruning layer of the pipeline that scored.
        prompt: The generic prompt the model was asked.
        images: How many images were averaged.
        scored_by: The importance stage that scored, as JSON.
    """

    whole: Float[Tensor, "planes rows columns"]
    counts: Int[Tensor, " planes"]
    model: str
    layer: int
    prompt: str
    images: int
    scored_by: str = ""

    @property
    def how(self) -> tuple[str, int, str, str]:
        """How it was measured: model, layer, prompt and importance stage."""
        return self.model, self.layer, self.prompt, self.scored_by

    @property
    def tile(self) -> Float[Tensor, "rows columns"]:
        """The mean over all planes of all images."""
        weights = self.counts / self.counts.sum()
        return (self.whole * weights[:, None, None]).sum(0)

    @classmethod
    def measured(
        cls, selections: Iterable[Selection], model: str, layer: int, prompt: str, scored_by: str = ""
    ) -> Self:
        """The mean of the scores of these selections, each sample one image.

        Planes of another size than the first are resized to it.

        Raises:
            TokenError: There are no tokens in these selections.
        """
        seen: dict[int, list[Tensor]] = {}
        images = 0
        for selection in selections:
            sizes = extents(selection.positions, selection.present)
            for scores, positions, present, size in zip(
                selection.scores, selection.positions, selection.present, sizes, strict=True
            ):
                maps = _maps(scores[present], positions[present], size[present])
                for plane, values in maps.items():
                    rows, columns = next(iter(seen.values()))[0].shape if seen else values.shape
                    seen.setdefault(plane, []).append(_resized(values, (rows, columns)))
                images += 1
        if not seen:
            raise TokenError("A prior needs the scores of at least one visual token; there were none.")
        empty = torch.zeros_like(next(iter(seen.values()))[0])
        planes = [seen.get(plane, []) for plane in range(max(seen) + 1)]
        whole = torch.stack([torch.stack(maps).mean(0) if maps else empty for maps in planes])
        counts = torch.tensor([len(maps) for maps in planes])
        return cls(whole, counts, model, layer, prompt, images, scored_by)

    def merged(self, other: Prior) -> Prior:
        """The prior of these images and those of another, measured in the same way.

        Raises:
            ConfigError: The other was measured on another model, layer or prompt, or by another stage.
        """
        if self.how != other.how:
            raise ConfigError(f"These priors were not measured alike: {self.how} and {other.how}.")
        planes = max(len(self.whole), len(other.whole))
        rows, columns = self.whole.shape[-2:]
        first, second = (
            (_padded(prior.counts, planes), _padded(_resized(prior.whole, (rows, columns)), planes))
            for prior in (self, other)
        )
        counts = first[0] + second[0]
        total = first[1] * first[0][:, None, None] + second[1] * second[0][:, None, None]
        whole = total / counts.clamp(min=1)[:, None, None]
        return replace(self, whole=whole, counts=counts, images=self.images + other.images)

    def at(
        self,
        positions: Int[Tensor, "batch tokens 3"],
        present: Bool[Tensor, "batch tokens"],
        layout: Layout = "tile",
        resize: Resize = "bilinear",
    ) -> Float[Tensor, "batch tokens"]:
        """The prior at each token, resized to the grid its plane really has; 1 at padding.

        Resized maps keep the mean of the measured one.

        Raises:
            TokenError: `whole` is asked for, and the tokens have more planes than were measured.
        """
        maps = _maps_on(self, layout, present.device)
        plane = positions[..., 0].masked_fill(~present, 0)
        if layout == "tile":
            plane = torch.zeros_like(plane)
        elif bool((plane >= len(maps)).any()):
            raise TokenError(
                f"The prior was measured on layouts of {len(maps)} planes, and these tokens have more; "
                "use layout: tile, which holds for any number of planes."
            )
        cell, size = positions[..., 1:].masked_fill(~present[..., None], 0), extents(positions, present)
        if resize == "linear":
            maps, cell, size = maps.flatten(1)[:, None], _unrolled(cell, size), _unrolled(size - 1, size) + 1
        values = resized_at(maps, plane, cell, size, engine_for(present.device))
        return values.masked_fill(~present, 1)

    def save(self, file: Path) -> None:
        """Writes the prior to a safetensors file, whole or not at all.

        Raises:
            ConfigError: The file cannot be written.
        """
        metadata = {
            "model": self.model,
            "layer": str(self.layer),
            "prompt": self.prompt,
            "images": str(self.images),
            "scored_by": self.scored_by,
        }
        write_whole(file, save({"whole": self.whole.contiguous(), "counts": self.counts}, metadata))

    @classmethod
    def load(cls, file: Path) -> Prior:
        """Reads a prior.

        Raises:
            ConfigError: There is no such file, or it holds no prior.
        """
        try:
            with safe_open(file, "pt") as held:
                told = held.metadata() or {}
                return cls(
                    held.get_tensor("whole").float(),
                    held.get_tensor("counts").long(),
                    told["model"],
                    int(told["layer"]),
                    told["prompt"],
                    int(told["images"]),
                    told.get("scored_by", ""),
                )
        except FileNotFoundError as error:
            raise ConfigError(f"There is no prior file {str(file)!r}.") from error
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ConfigError(
                f"{str(file)!r} holds no prior: {error}. A prior is a safetensors file with the tensors "
                "`whole` and `counts`, and model, layer, prompt and images in its metadata."
            ) from error


def _maps(scores: Tensor, positions: Tensor, sizes: Tensor) -> dict[int, Tensor]:
    """The scores of one sample as one map a plane; places without a token hold the plane's mean."""
    maps: dict[int, Tensor] = {}
    for plane in positions[:, 0].unique().tolist():
        here = positions[:, 0] == plane
        values = scores[here].float().cpu()
        grid = torch.full(tuple(sizes[here][0].tolist()), float(values.mean()))
        grid[positions[here][:, 1].cpu(), positions[here][:, 2].cpu()] = values
        maps[int(plane)] = grid
    return maps


@lru_cache(maxsize=16)
def _maps_on(prior: Prior, layout: Layout, device: torch.device) -> Float[Tensor, "planes rows columns"]:
    """The maps of a layout on a device, copied there once: a copy at each call would be waited for."""
    return (prior.tile[None] if layout == "tile" else prior.whole).to(device, torch.float32)


def _unrolled(cell: Int[Tensor, "... 2"], size: Int[Tensor, "... 2"]) -> Int[Tensor, "... 2"]:
    """The same cells with all rows of their plane joined to one."""
    raster = cell[..., 0] * size[..., 1] + cell[..., 1]
    return torch.stack([torch.zeros_like(raster), raster], -1)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(…, rows, columns)` at another size and equal mean; unchanged where the size is the same."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    stack = maps.reshape(-1, 1, *maps.shape[-2:])
    grown = F.interpolate(stack, size, mode="bilinear", align_corners=False).reshape(len(stack), -1)
    wanted, found = stack.flatten(1).mean(-1), grown.mean(-1)
    scale = torch.where(found == 0, 1, wanted / torch.where(found == 0, 1, found))
    return (grown * scale[:, None]).reshape(*maps.shape[:-2], *size)


def _padded(values: Tensor, planes: int) -> Tensor:
    """Zeros for the planes that were not measured."""
    return torch.cat([values, values.new_zeros(planes - len(values), *values.shape[1:])])
