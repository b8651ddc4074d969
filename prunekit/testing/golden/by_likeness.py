"""Methods that take one token after another, each by its likeness to those taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from prunekit.kernels.scaling import below_one, up_to_one
from prunekit.pipeline import Pipeline
from prunekit.signals import JointFeatures, JointTexts, Signal
from prunekit.testing.golden.data import Case
from prunekit.testing.golden.setting import in_a_row, kept, order, pipeline, scored_by
from prunekit.tokens import Selection, TokenBatch

Given = Mapping[str, Tensor]


def divprune(case: Case) -> Given:
    """DivPrune: the pipeline."""
    return _taken(pipeline("divprune", case.params["T"]), in_a_row(case.inputs["features"]))[1]


def cdpruner(case: Case) -> Given:
    """CDPruner: the pipeline, patches and prompts compared in the space of a contrastive model."""
    installed = pipeline("cdpruner", case.params["T"])
    ours = installed.swap(importance=installed.importance.model_copy(update={"space": "joint"}))
    signals: dict[Signal, Tensor] = {
        JointFeatures(): case.inputs["image_embeds"].mT[None],
        JointTexts(): case.inputs["text_embeds"][None],
    }
    selection, taken = _taken(ours, in_a_row(case.inputs["features"], signals))
    return {**taken, "relevance": up_to_one(selection.debiased, selection.present)[0]}


def idpruner(case: Case) -> Given:
    """IDPruner: the pipeline, given scores in place of attention."""
    numbers = case.params
    select = {"use": "mmr", "balance": numbers["lambda"], "at_once": numbers["parallel_k"]}
    ours = pipeline("idpruner", numbers["T"], select=[select])
    selection, taken = _taken(
        ours, in_a_row(case.inputs["features"], scored_by(ours, case.inputs["raw_score"]))
    )
    return {**taken, "importance": below_one(selection.debiased, selection.present)[0]}


def scope(case: Case) -> Given:
    """SCOPE: the pipeline."""
    ours = pipeline("scope", case.params["T"], select=[{"use": "coverage", "alpha": case.params["alpha"]}])
    return _taken(ours, in_a_row(case.inputs["features"], scored_by(ours, case.inputs["attention"])))[1]


def _taken(pipeline: Pipeline, tokens: TokenBatch) -> tuple[Selection, Given]:
    """What a pipeline selects, and in which order."""
    selection = pipeline(tokens)
    taken = {"kept": kept(selection), "order": order(pipeline, tokens, int(selection.counts[0]))}
    return selection, taken


RUNNERS: Mapping[str, Callable[[Case], Given]] = MappingProxyType(
    {"divprune": divprune, "cdpruner": cdpruner, "idpruner": idpruner, "scope": scope}
)
