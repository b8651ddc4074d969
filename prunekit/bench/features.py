"""Made-up tokens: grids as models have them, features of several kinds, the attention that text might pay.

How alike real hidden states are decides how soon a selection has what it needs, so only the shape of a cost
carries over from made-up ones, and ratios measured in one run.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from prunekit.prior import Prior
from prunekit.signals import Signal, TextAttention
from prunekit.tokens import TokenBatch

PLANES = MappingProxyType({576: 1, 2880: 5, 3328: 13, 8192: 8, 16384: 16})
"""Planes by number of tokens: one image, five tiles of 24 × 24, thirteen of 16 × 16, frames of 32 × 32."""

KINDS = ("clustered", "gaussian", "smooth", "anisotropic")
"""Kinds of features.

clustered: patches of like tokens, each with noise of its own strength; gaussian: nobody is like anybody;
smooth: neighbours are alike; anisotropic: everybody shares a direction, as hidden states do, and most are
alike, so that an independent set runs dry.
"""

HEADS = 8
TEXT = 64
PATCH = 12
HILL = 4
MAP = 24


@dataclass(frozen=True, slots=True)
class Size:
    """What tokens look like, how many there are in a sample, of how many features, and how many samples."""

    features: str
    tokens: int
    dim: int
    batch: int

    @property
    def bytes(self) -> int:
        """The memory of the features, in float32."""
        return 4 * self.batch * self.tokens * self.dim

    @property
    def planes(self) -> tuple[int, int, int]:
        """Planes, rows and columns, as square as the number of tokens divides."""
        planes = PLANES.get(self.tokens, 1)
        plane = self.tokens // planes
        rows = next(side for side in range(int(plane**0.5), 0, -1) if plane % side == 0)
        return planes, rows, plane // rows


def made_up(shape: Size, device: torch.device, seed: int = 0) -> TokenBatch:
    """Samples of a shape, each another draw, with the attention of a last prompt token."""
    make = torch.Generator().manual_seed(seed)
    features = torch.stack([_features(shape, make) for _ in range(shape.batch)])
    logits = 1.5 * torch.randn(shape.batch, HEADS, shape.tokens + TEXT, generator=make)
    signals: dict[Signal, Tensor] = {TextAttention(): logits.softmax(-1)[..., : shape.tokens]}
    _, rows, columns = shape.planes
    return TokenBatch.grid(features, rows, columns, signals).to(device)


def made_up_prior(seed: int = 0) -> Prior:
    """A prior that grows towards the end of the image, as the attention of a last prompt token does."""
    noise = torch.rand(1, MAP, MAP, generator=torch.Generator().manual_seed(seed))
    ramp = torch.linspace(1, 2, MAP * MAP).view(1, MAP, MAP)
    whole = (ramp + 0.2 * noise) / (MAP * MAP)
    return Prior(whole, torch.tensor([1]), "made up", 2, "none", 1)


@contextmanager
def made_up_prior_file() -> Generator[Path]:
    """The same as a file, for as long as the block lasts."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "prior.safetensors"
        made_up_prior().save(file)
        yield file


def _features(shape: Size, make: torch.Generator) -> Float[Tensor, "tokens dim"]:
    noise = torch.randn(shape.tokens, shape.dim, generator=make)
    strength = 0.2 + 0.6 * torch.rand(shape.tokens, 1, generator=make)
    if shape.features == "clustered":
        return _patches(shape, make) + strength * noise
    if shape.features == "smooth":
        return _hills(shape, make) + 0.3 * noise
    if shape.features == "anisotropic":
        return torch.randn(shape.dim, generator=make) + strength * noise
    return noise


def _patches(shape: Size, make: torch.Generator) -> Float[Tensor, "tokens dim"]:
    """On each plane Voronoi regions around random centres, one direction a region."""
    planes, rows, columns = shape.planes
    centres = max(rows * columns // PATCH, 1)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    size = torch.tensor([rows, columns])
    regions = [
        torch.cdist(cells, torch.rand(centres, 2, generator=make) * size).argmin(1) + plane * centres
        for plane in range(planes)
    ]
    return torch.randn(planes * centres, shape.dim, generator=make)[torch.cat(regions)]


def _hills(shape: Size, make: torch.Generator) -> Float[Tensor, "tokens dim"]:
    """Random directions every few cells of a plane, and between them what is between them."""
    planes, rows, columns = shape.planes
    coarse = torch.randn(planes, shape.dim, -(-rows // HILL), -(-columns // HILL), generator=make)
    fine = interpolate(coarse, (rows, columns), mode="bilinear", align_corners=False)
    return fine.movedim(1, -1).reshape(shape.tokens, shape.dim)
