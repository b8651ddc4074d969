"""Methods that keep the best by attention, freed of bias or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunekit.kernels.attention import Attending, attention_rows
from prunekit.registry import installed
from prunekit.signals import PaddedShare, Signal
from prunekit.stages import BiasEstimator
from prunekit.testing.golden.data import Case
from prunekit.testing.golden.setting import in_a_row, indices, kept, pipeline, scored_by
from prunekit.tokens import TokenBatch

Given = Mapping[str, Tensor]


def fastv(case: Case) -> Given:
    """FastV: the pipeline, and what is left of the whole sequence."""
    start, length = case.params["image_start"], case.params["image_length"]
    attention = case.inputs["attention_last_row"]
    ours = pipeline("fastv", case.params["T"])
    selection = ours(in_a_row(length, scored_by(ours, attention[:, start : start + length])))
    left = torch.ones(attention.shape[-1], dtype=torch.bool)
    left[start : start + length] = selection.kept[0]
    return {"score": selection.scores[0], "kept": kept(selection), "keep_positions": indices(left)}


def fastervlm(case: Case) -> Given:
    """FasterVLM: the pipeline."""
    attention = case.inputs["attention"]
    ours = pipeline("fastervlm", case.params["T"])
    selection = ours(in_a_row(attention.shape[-1], scored_by(ours, attention)))
    return {"score": selection.scores[0], "kept": kept(selection)}


def pyramiddrop(case: Case) -> Given:
    """PyramidDrop: the pipeline on the attention that its kernel computes, sample by sample."""
    given: dict[str, Tensor] = {}
    stage, ratios = case.params["stage"], case.params["ratios"]
    for sample, original in enumerate(case.params["original_image_tokens"]):
        present, left = int(original * ratios[stage]), int(original * ratios[stage + 1])
        start, text = case.params["image_start"][sample], case.params["prompt_len"][sample]
        attention = _last_row(case, sample)[:, start : start + present]
        ours = pipeline("pyramiddrop", left)
        selection = ours(in_a_row(present, scored_by(ours, attention)))
        given[f"score{sample}"] = selection.scores[0]
        given[f"kept{sample}"] = kept(selection)
        given[f"position_ids{sample}"] = torch.arange(text + int(selection.counts[0]))
    return given


def _last_row(case: Case, sample: int) -> Float[Tensor, "heads keys"]:
    """The attention of the last prompt token, which sees all before it and no padding."""
    query, keys = case.inputs["query_last"][sample], case.inputs["keys"][sample]
    seen = torch.arange(keys.shape[1]) <= case.params["query_position"][sample]
    attending = Attending(query[None, :, None], keys[None], seen[None], query.shape[-1] ** -0.5)
    return attention_rows(attending, torch.zeros(1, 1, dtype=torch.long))[0, :, 0]


def attention_bias(case: Case) -> Given:
    """The debiased FastV and PyramidDrop.

    Style `fastv` of the reference keeps no more than there are real patches; a pipeline keeps what it is
    asked for.
    """
    numbers = case.params
    padded = _padded_share(case)
    bias = [
        {"use": "exponential", "rate": numbers["decay"]},
        {"use": "padding", "threshold": numbers["pad_threshold"]},
    ]
    most = min(numbers["T"], int(_real(case).sum())) if numbers["style"] == "fastv" else numbers["T"]
    ours = pipeline(f"{numbers['style']}-debiased", most, bias=bias)
    signals = {**scored_by(ours, case.inputs["score"]), PaddedShare(): padded.reshape(1, -1)}
    selection = ours(_patches(padded, signals))
    return {
        "pad_mask": selection.biases[1].values[0].bool(),
        "weighted_score": selection.debiased[0],
        "kept": kept(selection),
    }


def pad_mask(case: Case) -> Given:
    """The stage `padding`, which weighs real patches by 1."""
    return {"pad_mask": _real(case)}


def _real(case: Case) -> Bool[Tensor, "rows columns"]:
    """Which patches the stage `padding` takes for real."""
    padded = _padded_share(case)
    padding = cast("type[BiasEstimator]", installed().stage("bias", "padding"))
    stage = padding.model_validate({"threshold": case.params["pad_threshold"]})
    signals: dict[Signal, Tensor] = {PaddedShare(): padded.reshape(1, -1)}
    bias = stage(_patches(padded, signals))
    return bias.values[0].bool().reshape(padded.shape)


def _padded_share(case: Case) -> Float[Tensor, "rows columns"]:
    """The padded share of each patch; 0 where the case has no image."""
    from prunekit.hf.grids import Grid
    from prunekit.hf.padding import Box, padded_share

    size = case.params["image_size"]
    box = Box() if size is None else Box.centred(*size)
    return padded_share(box, Grid(case.params["grid"], case.params["grid"]))


def _patches(padded: Float[Tensor, "rows columns"], signals: Mapping[Signal, Tensor]) -> TokenBatch:
    """One sample on the grid of its patches."""
    rows, columns = padded.shape
    return TokenBatch.grid(torch.ones(1, rows * columns, 1), rows, columns, signals)


RUNNERS: Mapping[str, Callable[[Case], Given]] = MappingProxyType(
    {
        "fastv": fastv,
        "fastervlm": fastervlm,
        "pyramiddrop": pyramiddrop,
        "attention_bias": attention_bias,
        "pad_mask": pad_mask,
    }
)
