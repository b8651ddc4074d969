"""Which of the new tokens of a forward pass are visual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from prunekit.errors import TokenError, UnsupportedModel
from prunekit.hf.decoder import Decoder
from prunekit.hf.pictures import PIXELS
from prunekit.hf.places import is_visual

ENCODED = "mm_encoder_outputs"
"""The argument by which `generate` hands over pictures that it has had encoded before."""


def visual_tokens(
    decoder: Decoder, inputs: Mapping[str, Any], marked: Bool[Tensor, "rows length"] | None
) -> Bool[Tensor, "batch length"] | None:
    """Where visual tokens may stand; None where there are none, as in every step after the prompt.

    Ids tell. Of a prompt given as embeddings a mark does, or, where its pictures come with it, the
    placeholders that the model is to put their features in place of.

    Args:
        decoder: The model.
        inputs: The arguments of its forward.
        marked: What the user says of a prompt given as embeddings. Rows stand for themselves and their
            copies: beams, several answers.

    Raises:
        UnsupportedModel: Nothing tells.
        TokenError: The mark does not fit the embeddings.
    """
    ids: Tensor | None = inputs.get("input_ids")
    if ids is not None:
        return is_visual(ids, decoder.visual_ids) if ids.shape[1] > 1 else None
    embeds: Tensor = inputs["inputs_embeds"]
    batch, length = embeds.shape[:2]
    if length == 1:
        return None
    if marked is not None:
        if marked.dtype != torch.bool or marked.shape[1:] != (length,) or batch % marked.shape[0]:
            raise TokenError(
                f"The mark of visual tokens is a bool mask (batch, length) = {(batch, length)}; got "
                f"{marked.dtype} {tuple(marked.shape)}."
            )
        return marked.repeat_interleave(batch // marked.shape[0], 0).to(embeds.device)
    encoded: Mapping[str, Any] = inputs.get(ENCODED) or {}
    if all(given is None for given in (*map(inputs.get, PIXELS), *encoded.values())):
        raise UnsupportedModel(
            "inputs_embeds without input_ids do not say which tokens are visual. Pass input_ids and "
            "pixel_values, or say where they stand: pruning.mark(visual), a bool mask (batch, length)."
        )
    visual = torch.tensor(decoder.visual_ids, device=embeds.device)
    holders: Tensor = decoder.model.get_input_embeddings()(visual).to(embeds)
    return (embeds[:, :, None] == holders).all(-1).any(-1)
