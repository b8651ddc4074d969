"""What a stranger might ship: a selector, and a pipeline that uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from prunekit import Candidates, Kept, Room, Selector, Stage, hookimpl
from prunekit.kernels.planes import raster_rank
from prunekit.kernels.ranking import best


class FirstRows(Selector):
    """Keeps the first tokens in raster order."""

    use: Literal["first_rows"] = "first_rows"

    def __call__(self, candidates: Candidates, kept: Kept, room: Room) -> Kept:
        tokens = candidates.tokens
        rank = raster_rank(tokens.positions, tokens.present)
        return kept | best(-rank.float(), tokens.present & ~kept, room)


@hookimpl
def prunekit_stages() -> Sequence[type[Stage]]:
    return [FirstRows]


@hookimpl
def prunekit_pipelines() -> Mapping[str, Path]:
    return {"skyline": Path(__file__).parent / "skyline.yaml"}
