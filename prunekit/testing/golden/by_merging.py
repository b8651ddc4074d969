"""Methods that merge tokens.

What is here is how the answers of the stages, a mask and features in the frame of the tokens, become the rows
of the official code in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from types import MappingProxyType
from typing import TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.files import load
from prunekit.graph import NoEdges
from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.peaks import peak_worth
from prunekit.kernels.ranking import descending, packed_key
from prunekit.kernels.raters import raters
from prunekit.pipeline import Pipeline
from prunekit.signals import InputFeatures, Signal, Sizes, TextFeatures, TextRows, VisionAttention, VisionKeys
from prunekit.stages import Merger
from prunekit.testing.golden.data import Case
from prunekit.tokens import Candidates, Growth, Kept, Scores, Selection, TokenBatch

Given: TypeAlias = Mapping[str, Tensor]

SAMPLED = 575
"""The official PruMerge+ samples no position from here on, however many tokens there are."""

NOISE = 1e-6
"""How much the official SparseVLM lets random numbers count beside densities."""


def visionzip(case: Case) -> Given:
    """VisionZip; the class token, which is no visual token, comes back in front."""
    hidden, keys, attention = (case.inputs[name].float() for name in ("hidden", "metric", "attention"))
    dominant, contextual = case.params["dominant"], case.params["contextual"]
    tokens = _tokens(hidden[1:], {VisionAttention(): attention[None], VisionKeys(): keys[1:].mT[None, None]})
    pipeline = _split("visionzip", dominant, contextual)
    selection = pipeline(tokens)
    first, targets = _of(selection, "top_k"), _places(selection.by(["strided"]))
    members = _places(~selection.kept)
    owner = _owners(_merger(pipeline), tokens, selection)
    rows = torch.cat([first.sort().values, targets])
    return {
        "dominant": first,
        "targets": targets,
        "members": members,
        "member_target": torch.searchsorted(targets, owner[0, members]),
        "tokens": torch.cat([hidden[:1], _features(selection)[rows]]),
    }


def visionzip_mean(case: Case) -> Given:
    """VisionZip with plain means, and the budget as a share."""
    features, keys, score = (case.inputs[name].float() for name in ("features", "metric", "score"))
    wanted = round(len(features) * (1 - case.params["drop_ratio"]))
    contextual = max(1, round(wanted * case.params["contextual_share"]))
    tokens = _tokens(features, {VisionAttention(): score[None, None], VisionKeys(): keys.mT[None, None]})
    pipeline = _split("visionzip-mean", wanted - contextual, contextual)
    selection = pipeline(tokens)
    rows = _places(selection.kept)
    return {
        "representatives": rows,
        "tokens": _features(selection)[rows],
        "weights_per_token": _owners(_merger(pipeline), tokens, selection)[0].bincount()[rows],
    }


def prumerge(case: Case) -> Given:
    """PruMerge, with as many tokens as stand out, and one more."""
    tokens, attention = _with_class_attention(case)
    outliers = int(_standing_out(tokens).sum())
    selection = load("prumerge").swap(budget=outliers + 1)(tokens)
    return _prumerged(selection, attention, _of(selection, "outliers"))


def prumerge_plus(case: Case) -> Given:
    """PruMerge+, with as many tokens as stand out or are sampled, and one more."""
    tokens, attention = _with_class_attention(case)
    standing = _standing_out(tokens)[0]
    count, outliers = len(standing), int(standing.sum())
    step = max(int(int(1 / (outliers / count)) / 3), 1) if outliers else count
    sampled = int((~standing[: min(SAMPLED, count) : step]).sum())
    extra = int(outliers + sampled < count)
    plus = load("prumerge-plus").swap(
        budget=outliers + sampled + extra,
        select=["outliers", {"use": "strided", "among": "all", "step": step, "leave": extra}],
    )
    selection = plus(tokens)
    kept = torch.cat([_of(selection, "outliers"), _places(selection.by(["strided"]))])
    return _prumerged(selection, attention, kept)


def tome(case: Case) -> Given:
    """One step of ToMe; a class token is a token that is kept beforehand."""
    metric, features, size = (case.inputs[name].float() for name in ("metric", "x", "size"))
    (batch, count, _), alone = features.shape, int(case.params["class_token"])
    merging = min(case.params["r"], (count - alone) // 2)
    signals: dict[Signal, Tensor] = {VisionKeys(): metric.mT[:, None], Sizes(): size[..., 0]}
    tokens = TokenBatch.grid(features, 1, count, signals)
    pipeline = load("tome")
    merger = _merger(pipeline).model_copy(update={"weight": "size"})

    before = torch.zeros_like(tokens.present)
    before[:, :alone] = True
    room = torch.full((batch,), count - alone - merging)
    candidates = Candidates(tokens, size[..., 0], NoEdges(tokens.present))
    grown = cast("Growth", pipeline.select[0](candidates, before, room))
    selection = _selected(tokens, size[..., 0], {"bipartite": grown.kept})

    directions = unit(metric)
    alike = cosine(directions[:, ::2], directions[:, 1::2]).amax(-1)
    order = 2 * descending(packed_key(alike, ~before[:, ::2]))
    stays = selection.kept.gather(1, order)
    source, unmerged = order[~stays].view(batch, -1), order[stays].view(batch, -1)
    unmerged = unmerged.sort(-1).values if alone else unmerged
    rows = torch.cat([unmerged, torch.arange(1, count, 2).expand(batch, -1)], -1)
    sizes = _summing(merger)(replace(tokens, features=size), selection)
    return {
        "source": source,
        "destination": _owners(merger, tokens, selection).gather(1, source),
        "unmerged": unmerged,
        "tokens": _picked(merger(tokens, selection), rows),
        "sizes": _picked(sizes, rows),
    }


def sparsevlm(case: Case) -> Given:
    """SparseVLM at one layer; random numbers of the case go into densities, which the stage leaves out."""
    visual, text, attention, hidden = (
        case.inputs[name].float()[None] for name in ("visual", "text", "attention", "hidden_after")
    )
    signals: dict[Signal, Tensor] = {
        TextRows(): attention,
        TextFeatures("input"): text,
        InputFeatures(): visual.mT,
    }
    tokens = _tokens(hidden[0], signals)
    pipeline = load("sparsevlm").cuts[0]
    keep = min(case.params["keep_table"], hidden.shape[1] - 1)
    best = pipeline.swap(budget=keep, select="top_k", merge=None)(tokens)

    dropped = hidden.shape[1] - keep
    recycled = descending(packed_key(best.scores, ~best.kept))[0, : int(0.3 * dropped) + 1]
    clusters = int(len(recycled) / 10) + 1
    points, noise = hidden[:, recycled], case.inputs["density_noise"].float()[None] * NOISE
    everyone = torch.ones(points.shape[:2], dtype=torch.bool)
    worth = peak_worth(points, everyone, torch.tensor([clusters]), noise)
    centres = recycled[descending(packed_key(worth, everyone))[0, :clusters]]

    standing = torch.zeros_like(best.kept)
    standing[0, centres] = True
    selection = _selected(tokens, best.scores, {"top_k": best.kept, "density_peaks": standing})
    return {
        "raters": _places(raters(visual, text, tokens.present, (text != 0).any(-1))),
        "score": best.scores[0],
        "kept": _places(best.kept),
        "recycled": recycled,
        "merged": _merger(pipeline)(tokens, selection)[0, centres],
    }


RUNNERS: Mapping[str, Callable[[Case], Given]] = MappingProxyType(
    {
        "prumerge": prumerge,
        "prumerge_plus": prumerge_plus,
        "sparsevlm": sparsevlm,
        "tome": tome,
        "visionzip": visionzip,
        "visionzip_mean": visionzip_mean,
    }
)
"""For each method that merges the function that runs one of its cases."""

# --- what methods have in common --------------------------------------------------------------------------


def _tokens(features: Float[Tensor, "tokens dim"], signals: Mapping[Signal, Tensor]) -> TokenBatch:
    """One sample in raster order."""
    return TokenBatch.grid(features[None], 1, len(features), signals)


def _split(name: str, dominant: int, contextual: int) -> Pipeline:
    """VisionZip with these counts: the share is such that rounding it down gives them."""
    budget = dominant + contextual
    share = min((dominant + 0.5) / budget, 1.0)
    return load(name).swap(budget=budget, select=[{"use": "top_k", "share": share}, "strided"])


def _with_class_attention(case: Case) -> tuple[TokenBatch, Float[Tensor, " tokens"]]:
    """PruMerge's tokens, and the attention of the class token, all heads as one."""
    features, keys, query = (case.inputs[name].float() for name in ("features", "keys", "cls_query"))
    attention = (keys @ query / sqrt(len(query))).softmax(0)[1:]
    signals: dict[Signal, Tensor] = {
        VisionAttention(layer=-1, query="cls"): attention[None, None],
        VisionKeys(layer=-1): keys[1:].mT[None, None],
    }
    return _tokens(features, signals), attention


def _standing_out(tokens: TokenBatch) -> Kept:
    """The tokens whose scores are outliers, all of them."""
    return load("prumerge").swap(budget=1.0, select="outliers", merge=None)(tokens).by(["outliers"])


def _prumerged(
    selection: Selection, attention: Float[Tensor, " tokens"], kept: Int[Tensor, " kept"]
) -> dict[str, Tensor]:
    """PruMerge's outputs: the rows of what is kept, and the one that holds the rest, 0 if there is none."""
    features, rest = _features(selection), _places(selection.by(["rest"]))
    extra = features[rest] if len(rest) else torch.zeros_like(features[:1])
    tokens = torch.cat([features[kept], extra])
    return {"cls_attention": attention, "kept_order": kept, "tokens": tokens}


def _selected(tokens: TokenBatch, scores: Scores, steps: Mapping[str, Kept]) -> Selection:
    """A selection in which these steps kept these tokens."""
    kept_by = torch.full(tokens.present.shape, -1)
    for step, kept in enumerate(steps.values()):
        kept_by = kept_by.masked_fill(kept, step)
    return Selection(kept_by >= 0, kept_by, tuple(steps), scores, scores, tokens.positions, tokens.present)


def _merger(pipeline: Pipeline) -> Merger:
    return cast("Merger", pipeline.merge)


def _summing(merger: Merger) -> Merger:
    """The same merger, which adds up what it merges."""
    return merger.model_copy(update={"rule": "sum", "weight": "equal"})


def _owners(merger: Merger, tokens: TokenBatch, selection: Selection) -> Int[Tensor, "batch tokens"]:
    """The representative that each token joins, or is: tokens that are each an axis say it when added up."""
    axes = torch.eye(tokens.present.shape[1]).expand(len(tokens.present), -1, -1)
    added = _summing(merger)(replace(tokens, features=axes), selection)
    return added.masked_fill(~selection.kept[..., None], 0).argmax(1)


def _of(selection: Selection, step: str) -> Int[Tensor, " kept"]:
    """The tokens that a step kept, the best first."""
    mask = selection.by([step])
    return descending(packed_key(selection.scores, mask))[0, : int(mask.sum())]


def _places(mask: Bool[Tensor, "one tokens"]) -> Int[Tensor, " marked"]:
    """The marked tokens of the one sample, ascending."""
    return mask[0].nonzero().flatten()


def _features(selection: Selection) -> Float[Tensor, "tokens dim"]:
    """The features after merging of the one sample."""
    return cast("Tensor", selection.merged)[0]


def _picked(values: Float[Tensor, "batch tokens dim"], rows: Int[Tensor, "batch rows"]) -> Tensor:
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
