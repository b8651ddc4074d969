"""How visual tokens lie in their images: the plane, row and column of each.

A model lines its visual tokens up in one sequence; a graph over neighbours needs them back on their
grid. Only this differs from family to family, so this is all an `Adapter` has to know.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from math import isqrt
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from prunekit.errors import TokenError
from prunekit.hf.places import visual_token_ids

Runs = tuple[tuple[int, ...], ...]
"""For each row of a batch the lengths of its unbroken runs of visual tokens, in order."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Visual tokens that follow each other in raster order: so many planes of rows × columns."""

    rows: int
    columns: int
    planes: int = 1

    @property
    def size(self) -> int:
        """How many tokens lie on it."""
        return self.planes * self.rows * self.columns


Picture = tuple[Grid, ...]
"""The grids of one image or one video, in the order of its tokens."""


@runtime_checkable
class Adapter(Protocol):
    """What prunekit cannot know about a model family by itself: the grids of its visual tokens."""

    def fits(self, config: Any) -> bool:
        """Whether this adapter speaks for models of this configuration."""
        ...

    def grids(self, runs: Runs, inputs: Mapping[str, Any], config: Any) -> Sequence[Sequence[Grid]]:
        """For each row the grids that together hold its visual tokens, in order.

        Args:
            runs: The lengths of the unbroken runs of visual tokens, row by row.
            inputs: The arguments of the model's forward: `pixel_values`, `image_grid_thw`, …; its
                `input_ids` have the rows of `runs` and tell images from videos.
            config: The configuration of the model.
        """
        ...


class GenericAdapter:
    """The rule for every model that no other adapter speaks for.

    1. `image_grid_thw` and `video_grid_thw` say it (Qwen-VL, GLM-V): divided by `spatial_merge_size`.
    2. Otherwise a run is cut into images of equal size (adjacent images share one run, for nothing
       stands between them), known from the number of images in `pixel_values`, or else from the
       configuration; an image with a square number of tokens is taken for a square.
    3. What is left is one row. Such a run has features of several sizes or line breaks among its
       tokens, and a wrong grid would make neighbours of strangers.

    The last two are guesses; each class of models is warned of once in a process.
    """

    def fits(self, config: Any) -> bool:
        """Any model."""
        del config
        return True

    def grids(self, runs: Runs, inputs: Mapping[str, Any], config: Any) -> Sequence[Sequence[Grid]]:
        """See `Adapter.grids`."""
        images, videos = (_told(inputs, config, f"{kind}_grid_thw") for kind in ("image", "video"))
        dealt = deal(runs, inputs, config, images, videos) if images or videos else None
        if dealt is not None:
            return dealt
        _warn(_model_class(config))
        size = _image_size(runs, inputs, config)
        return [[grid for run in row for grid in _cut(run, size)] for row in runs]


def deal(
    runs: Runs, inputs: Mapping[str, Any], config: Any, images: Iterable[Picture], videos: Iterable[Picture]
) -> list[list[Grid]] | None:
    """The grids of each row, dealt out from the pictures of the prompt; None where they do not add up.

    Where a prompt holds images and videos, the token ids say whose turn it is. A later turn of a
    conversation may name the pictures that the cache already holds once more; of a single row's pictures
    the last ones are taken, of those of several rows it cannot be said which are new.

    Args:
        runs: As `Adapter.grids` gets them.
        inputs: The same.
        config: The same.
        images: The images of all rows, in order; what is no sequence is endless.
        videos: The videos, likewise.
    """
    turns = _turns(runs, inputs, config)
    if len(turns) == 1:
        needed = [sum(count for video, count in turns[0] if video == kind) for kind in (False, True)]
        images, videos = _newest(images, needed[0]), _newest(videos, needed[1])
    queues = iter(images), iter(videos)
    dealt: list[list[Grid]] = []
    for row in turns:
        dealt.append([])
        for video, count in row:
            grids = _take(queues[video], count)
            if grids is None:
                return None
            dealt[-1] += grids
    told = zip((images, videos), queues, strict=True)
    over = any(isinstance(pictures, Sequence) and next(queue, None) for pictures, queue in told)
    return None if over else dealt


def positions_on(
    grids: Sequence[Sequence[Grid]], counts: Sequence[int], device: torch.device
) -> Int[Tensor, "batch tokens 3"]:
    """`(plane, row, column)` of each visual token; (0, 0, 0) where a row is padded at its end.

    Planes are numbered from 0 in each row, in order of appearance.

    Raises:
        TokenError: The grids of a row do not hold exactly its visual tokens.
    """
    _check(grids, counts)
    positions = torch.zeros(len(grids), max(counts, default=0), 3, dtype=torch.long)
    for row, (lie, count) in enumerate(zip(grids, counts, strict=True)):
        positions[row, :count] = _raster(lie)
    return positions.to(device)


def plane_grids(grids: Sequence[Sequence[Grid]]) -> list[Grid]:
    """Every plane of the batch as a grid of its own, in order."""
    return [Grid(grid.rows, grid.columns) for row in grids for grid in row for _ in range(grid.planes)]


def _check(grids: Sequence[Sequence[Grid]], counts: Sequence[int]) -> None:
    sizes = [sum(grid.size for grid in row) for row in grids]
    if sizes != list(counts):
        raise TokenError(
            f"The grids of the visual tokens hold {sizes} tokens a row, the prompt has {list(counts)}. "
            "The adapter of this model family does not fit its inputs."
        )


def _raster(grids: Sequence[Grid]) -> Int[Tensor, "tokens 3"]:
    parts: list[Tensor] = [torch.zeros(0, 3, dtype=torch.long)]
    first = 0
    for grid in grids:
        planes = torch.arange(first, first + grid.planes)
        parts.append(torch.cartesian_prod(planes, torch.arange(grid.rows), torch.arange(grid.columns)))
        first += grid.planes
    return torch.cat(parts)


def _turns(runs: Runs, inputs: Mapping[str, Any], config: Any) -> list[list[tuple[bool, int]]]:
    """For each row how many tokens of images (False) and of videos (True) take turns."""
    ids, videos = inputs.get("input_ids"), _given(inputs, "pixel_values_videos", "video_grid_thw")
    if not (videos and _given(inputs, "pixel_values", "image_grid_thw") and isinstance(ids, Tensor)):
        return [[(videos, sum(row))] for row in runs]
    visual = visual_token_ids(config)
    moving = {getattr(config, name, None) for name in ("video_token_id", "video_token_index")}
    marked = [[token in moving for token in row if token in visual] for row in ids.tolist()]
    return [[(kind, len(list(tokens))) for kind, tokens in groupby(row)] for row in marked]


def _newest(pictures: Iterable[Picture], count: int) -> Iterable[Picture]:
    """Of a sequence the last pictures, as many as hold so many tokens."""
    if not isinstance(pictures, Sequence):
        return pictures
    first = len(pictures)
    while first and count > 0:
        first -= 1
        count -= _size(pictures[first])
    return pictures[first:]


def _take(queue: Iterator[Picture], count: int) -> list[Grid] | None:
    """The grids of the next pictures, which together hold exactly so many tokens."""
    taken: list[Grid] = []
    while count > 0:
        picture = next(queue, None)
        if picture is None:
            return None
        taken += picture
        count -= _size(picture)
    return taken if count == 0 else None


def _size(picture: Picture) -> int:
    return sum(grid.size for grid in picture)


def _told(inputs: Mapping[str, Any], config: Any, name: str) -> list[Picture]:
    """The pictures that the processor hands over as planes, rows and columns of patches."""
    if not isinstance(inputs.get(name), Tensor):
        return []
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1)
    return [
        (Grid(rows // merge, columns // merge, planes),) for planes, rows, columns in inputs[name].tolist()
    ]


def _model_class(config: Any) -> str:
    """What the model calls itself, else its configuration."""
    return next(iter(getattr(config, "architectures", None) or ()), type(config).__name__)


@cache
def _warn(model: str) -> None:
    warnings.warn(
        f"prunekit guesses how {model} lays out its visual tokens: a square number of them as a square, any "
        "other as one row. Graphs over neighbours go by this. To say how they lie, write an Adapter "
        "(prunekit.hf.Adapter) and hand it to attach(…, adapters=[…]), or return it from the hook "
        "prunekit_adapters.",
        stacklevel=2,
    )


def _image_size(runs: Runs, inputs: Mapping[str, Any], config: Any) -> int | None:
    """Tokens an image where all have the same number; None where that is not known."""
    pixels = inputs.get("pixel_values")
    total = sum(map(sum, runs))
    if isinstance(pixels, Tensor) and pixels.ndim == 4 and total % pixels.shape[0] == 0:
        size = total // pixels.shape[0]
        if all(run % size == 0 for row in runs for run in row):
            return size
    return _configured_size(config)


def _configured_size(config: Any) -> int | None:
    for name in ("image_seq_length", "mm_tokens_per_image"):
        size = getattr(config, name, None)
        if isinstance(size, int) and size > 0:
            return size
    return None


def _cut(run: int, size: int | None) -> list[Grid]:
    if size and run % size == 0:
        return [_square_or_row(size)] * (run // size)
    return [_square_or_row(run)]


def _square_or_row(size: int) -> Grid:
    side = isqrt(size)
    return Grid(side, side) if side * side == size else Grid(1, size)


def _given(inputs: Mapping[str, Any], *names: str) -> bool:
    return any(inputs.get(name) is not None for name in names)
