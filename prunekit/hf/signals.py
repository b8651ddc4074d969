"""What stages asked to have captured, as values over the visual tokens, or over those of the question."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.hf.cut import InLayer
from prunekit.hf.forward import ForwardPass
from prunekit.hf.grids import Grid, plane_grids
from prunekit.hf.padding import padded_shares
from prunekit.hf.pictures import Pictures
from prunekit.hf.places import Places
from prunekit.hf.slots import gather
from prunekit.kernels.attention import Attending, attention_rows, mean_attention
from prunekit.signals import (
    Distance,
    InputFeatures,
    Keys,
    PaddedShare,
    Signal,
    Sizes,
    TextAttention,
    TextFeatures,
    TextKeys,
    TextRows,
    VisionAttention,
    VisionKeys,
)

CAPTURED = (
    *get_args(InLayer),
    Distance,
    InputFeatures,
    PaddedShare,
    Sizes,
    TextFeatures,
    VisionAttention,
    VisionKeys,
)
"""The kinds of signals that can be had from a transformers model."""


def refuse_unknown(needs: Collection[Signal]) -> None:
    """Refuses signals that this attachment does not capture.

    Raises:
        UnsupportedModel: A signal is of an unknown kind.
    """
    for need in needs:
        if not isinstance(need, CAPTURED):
            names = ", ".join(kind.__name__ for kind in CAPTURED)
            raise UnsupportedModel(
                f"Attaching to a transformers model does not capture {need}. Captured are: {names}."
            )


def seen_in_layer(signal: InLayer, attending: Attending, forward: ForwardPass, places: Places) -> Tensor:
    """What an attending layer shows of the visual tokens, or of the question; 0 where there is none.

    Args:
        signal: What of it.
        attending: What the attention module computes.
        forward: The pass, with the tokens that enter the layer.
        places: Where the visual ones stand among them.

    Raises:
        PrunekitError: The attention is not finite.
    """
    length, device = forward.stream.length, places.index.device
    match signal:
        case Keys():
            keys = attending.key[..., -length:, :].mT.to(device)
            return places.pick(keys)
        case TextKeys():
            columns, counted = forward.question()
            keys = attending.key[..., -length:, :].transpose(1, 2).flatten(2).to(device)
            return gather(keys, columns, 1).masked_fill(~counted[..., None], 0)
        case TextRows():
            columns, counted = forward.question()
            rows = attention_rows(attending, columns.to(attending.query.device)).to(device)
            paid = rows.masked_fill(~counted[:, None, :, None], 0)
        case TextAttention():
            queries, counted = prompt_queries(signal.query, forward.stream.visual, forward.stream.real)
            there = attending.query.device
            paid = mean_attention(attending, queries.to(there), counted.to(there)).to(device)
    return _finite(places.pick(paid[..., -length:]), signal)


def _finite(attention: Tensor, signal: Signal) -> Tensor:
    if not bool(attention.isfinite().all()):
        raise PrunekitError(
            f"The model's attention is not finite, so {signal} says nothing. Its activations overflow: "
            "run it in bfloat16 or float32."
        )
    return attention


def distances(
    real: Bool[Tensor, "batch length"], visual: Bool[Tensor, "batch length"], places: Places
) -> Float[Tensor, "batch tokens"]:
    """How many tokens before the last one of its prompt each visual token stands; 0 where padded."""
    last, _ = prompt_queries("last", visual, real)
    return (last - places.index).clamp(min=0).masked_fill(~places.present, 0).float()


def question_features(
    states: Float[Tensor, "batch length dim"], forward: ForwardPass
) -> Float[Tensor, "batch texts dim"]:
    """The states of the question's tokens; rows of zeros where there is none."""
    columns, counted = forward.question()
    picked = gather(states.detach(), columns, -2).to(columns.device)
    return picked.masked_fill(~counted[..., None], 0)


def prompt_queries(
    query: Literal["last", "mean"],
    visual: Bool[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
) -> tuple[Int[Tensor, "batch queries"], Bool[Tensor, "batch queries"]]:
    """The columns whose attention counts, and which of them do.

    `last` is the last token of each row that is no padding; `mean` all text tokens after its last visual
    token, or the last token where the prompt ends in an image.
    """
    ordinal = torch.arange(1, real.shape[1] + 1, device=real.device)
    last = (real * ordinal).argmax(1, keepdim=True)
    if query == "last":
        return last, torch.ones_like(last, dtype=torch.bool)
    after = real & (ordinal > (visual * ordinal).amax(1, keepdim=True))
    after = after.scatter(1, last, True)
    most = int(after.sum(1).max())
    columns = after.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return columns, after.gather(1, columns)


def padding_of(
    pictures: Pictures, grids: Sequence[Sequence[Grid]], places: Places
) -> Float[Tensor, "batch tokens"]:
    """The share of each visual token's patch that is padding around its image; 0 where padded.

    Args:
        pictures: What is told of them.
        grids: For each row that is told of, the grids of its visual tokens.
        places: Where the visual tokens of the batch stand.

    Raises:
        UnsupportedModel: The pictures cannot be matched with the planes.
    """
    if pictures.inputs.get("image_sizes") is not None:
        raise UnsupportedModel(
            "The images of this model have sizes of their own, so what pads them to one size in pixel_values "
            "lies on no patch. Use a bias without PaddedShare for this model."
        )
    shares = iter(padded_shares(pictures.inputs.get("pixel_values"), plane_grids(grids)))
    rows = [torch.cat([next(shares) for _ in plane_grids([row])] or [torch.zeros(0)]) for row in grids]
    everything = torch.cat(pictures.repeated(rows)).float().to(places.index.device)
    values = torch.zeros(places.present.shape, device=places.index.device)
    return values.masked_scatter(places.present, everything)
