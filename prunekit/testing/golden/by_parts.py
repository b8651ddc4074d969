"""Methods that share the room out among chunks or frames, and those for videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from prunekit.kernels.parts import best_of_parts, chunk_of, mean_of
from prunekit.kernels.planes import plane_of
from prunekit.kernels.ranking import packed_key
from prunekit.stages import ImportanceScorer
from prunekit.testing.golden.data import Case
from prunekit.testing.golden.setting import in_a_row, indices, kept, pipeline, scored_by
from prunekit.tokens import TokenBatch

Given = Mapping[str, Tensor]


def evs(case: Case) -> Given:
    """EVS: the pipeline, asked for as many as the reference keeps."""
    (frames, height, width), merge = case.params["thw"], case.params["merge"]
    rows, columns = height // merge, width // merge
    count = max(rows * columns, int(frames * rows * columns * (1 - case.params["q"])))
    tokens = TokenBatch.grid(case.inputs["features"][None], rows, columns)
    return {"kept": kept(pipeline("evs", count)(tokens))}


def holov(case: Case) -> Given:
    """HoloV: the pipeline; its chunk scores are multiplied by 1000, as in the reference."""
    numbers, features, attention = case.params, case.inputs["features"], case.inputs["attention"]
    chunks = {"chunks": numbers["chunks"]}
    worth = {"use": "in_context", "of": "vision_attention", **chunks, "weight": numbers["variance_weight"]}
    quota = {"use": "quota", "part": "chunk", **chunks, "share": "mean", "worth": worth, "leftover": "share"}
    ours = pipeline("holov", numbers["T"], select=[quota])
    tokens = in_a_row(features, scored_by(ours, attention))
    selection = ours(tokens)
    chunk = chunk_of(tokens.positions, tokens.present, numbers["chunks"])
    score = mean_of(_worth(ours.select[0])(tokens), chunk, tokens.present)[0]
    order: list[Tensor] = []
    scores: list[Tensor] = []
    quotas: list[int] = []
    for number in range(numbers["chunks"]):
        here = indices(chunk[0] == number)
        taken = indices((chunk[0] == number) & selection.kept[0])
        falling = packed_key(selection.scores, selection.kept)[0, taken].argsort(descending=True)
        order.append(taken if len(taken) == len(here) else taken[falling])
        scores.append(1000 * score[here[0]])
        quotas.append(len(taken))
    return {
        "order": torch.cat(order),
        "kept": kept(selection),
        "chunk_score": torch.stack(scores),
        "chunk_quota": torch.tensor(quotas),
    }


def vidcom2(case: Case) -> Given:
    """VidCom2: the scores of the pipeline, and how far it finds frames to stand out.

    Each frame is rounded by itself, as in the reference; the pipeline keeps exactly what it is asked for.
    """
    each = case.params["tokens_per_frame"]
    tokens = TokenBatch.grid(case.inputs["features"][None], 1, each)
    ours = pipeline("vidcom2", 1)
    selection = ours(tokens)
    quota = cast("Any", ours.select[0])
    plane = plane_of(tokens.positions, tokens.present)
    odds = quota.odds(_worth(quota)(tokens), plane, tokens.present)[0, ::each].float()
    rate = (case.params["base"] * (1 + odds - odds.mean())).clamp(max=1)
    counts = (rate * each).round().clamp(min=1).long()
    taken = best_of_parts(
        packed_key(selection.debiased, tokens.present), plane, counts.repeat_interleave(each)[None]
    )
    return {
        "frame_rate": rate,
        "frame_counts": counts,
        "score": -selection.scores[0],
        "kept": indices(taken[0]),
    }


def _worth(selector: Any) -> ImportanceScorer:
    """What a selector judges parts by."""
    return selector.worth


RUNNERS: Mapping[str, Callable[[Case], Given]] = MappingProxyType(
    {"evs": evs, "holov": holov, "vidcom2": vidcom2}
)
