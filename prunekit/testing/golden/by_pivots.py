"""Methods that start from a few tokens, and choose the rest by what they are to those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from prunekit.kernels.cosine import unit
from prunekit.kernels.ranking import packed_key
from prunekit.kernels.unlike import least_like
from prunekit.signals import Keys, Signal, TextFeatures, TextKeys
from prunekit.testing.golden.data import Case
from prunekit.testing.golden.setting import in_a_row, indices, kept, pipeline, scored_by
from prunekit.tokens import Selection, TokenBatch

Given = Mapping[str, Tensor]


def hiprune(case: Case) -> Given:
    """HiPrune: the pipeline."""
    numbers = case.params
    installed = pipeline("hiprune", numbers["T"])
    anchors = cast("Any", installed.select[0]).model_copy(update={"share": numbers["alpha"]})
    ours = installed.swap(select=[anchors, *installed.select[1:]])
    signals = {
        **scored_by(ours, case.inputs["deep_score"]),
        **dict.fromkeys(anchors.by.needs, case.inputs["shallow_score"].reshape(1, 1, -1)),
    }
    plane = torch.ones(1, numbers["height"] * numbers["width"], 1)
    selection = ours(TokenBatch.grid(plane, numbers["height"], numbers["width"], signals))
    return {"anchors_and_neighbours": indices(selection.kept_by[0] == 0), "kept": kept(selection)}


def vispruner(case: Case) -> Given:
    """VisPruner: the pipeline."""
    installed = pipeline("vispruner", case.params["T"])
    important = installed.select[0].model_copy(update={"share": case.params["important_ratio"]})
    ours = installed.swap(select=[important, *installed.select[1:]])
    tokens = in_a_row(case.inputs["features"], scored_by(ours, case.inputs["attention"]))
    return {"kept": kept(ours(tokens))}


@dataclass(frozen=True, slots=True, eq=False)
class Pivots:
    """What the DART pipeline makes of a case: its pivots, and what it keeps."""

    tokens: TokenBatch
    selection: Selection
    image: Tensor
    text: Tensor


def dart_exact(case: Case) -> Given:
    """DART with an exact count: the pipeline, text pivots from all that is not visual."""
    start, length = case.params["image_start"], case.params["image_length"]
    places = torch.arange(len(case.inputs["hidden"]))
    text = places[(places < start) | (places >= start + length)]
    found = _pivots(case, text, case.params["T"])
    return {**_told(found), "kept": kept(found.selection)}


def dart(case: Case) -> Given:
    """DART: the pivots of the pipeline, visited in the order of the reference, which is an accident."""
    start, length = case.params["image_start"], case.params["image_length"]
    visited = case.inputs["pivot_order"].long()
    room = case.params["per_pivot"] * len(visited)
    text = torch.arange(start + length, len(case.inputs["hidden"]))
    found = _pivots(case, text, case.params["image_pivots"] + room)
    taken = found.selection.kept_by == 0
    vectors = unit(case.inputs["hidden"])[None]
    added = least_like(
        vectors[:, start : start + length],
        vectors[:, visited],
        torch.ones(1, len(visited), dtype=torch.bool),
        ~taken,
        torch.tensor([room]),
    )
    return {**_told(found), "kept": indices((taken | added)[0])}


def _pivots(case: Case, text: Tensor, budget: int) -> Pivots:
    """The pipeline on a case whose text tokens are at these positions of the sequence."""
    start, length = case.params["image_start"], case.params["image_length"]
    hidden, keys = case.inputs["hidden"], case.inputs["keys"]
    image = slice(start, start + length)
    signals: dict[Signal, Tensor] = {
        Keys(): keys[:, image].mT[None],
        TextKeys(): keys[:, text].transpose(0, 1).flatten(1)[None],
        TextFeatures(): hidden[text][None],
    }
    counts = {"image": case.params["image_pivots"], "text": case.params["text_pivots"]}
    select = [
        {"use": "top_k", "most": counts["image"]},
        {"use": "unlike", "images": counts["image"], "texts": counts["text"]},
    ]
    ours = pipeline("dart", budget, select=select)
    tokens = in_a_row(hidden[image], signals)
    selection = ours(tokens)
    taken = indices(selection.kept_by[0] == 0)
    falling = packed_key(selection.scores, selection.kept)[0, taken].argsort(descending=True)
    chosen, there = cast("Any", ours.select[1]).text_pivots(tokens)
    return Pivots(tokens, selection, taken[falling], text[chosen[0, there[0]]])


def _told(found: Pivots) -> dict[str, Tensor]:
    return {"image_pivots": found.image, "text_pivots": found.text}


RUNNERS: Mapping[str, Callable[[Case], Given]] = MappingProxyType(
    {"hiprune": hiprune, "vispruner": vispruner, "dart": dart, "dart_exact": dart_exact}
)
