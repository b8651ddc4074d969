"""Where patches become visual tokens: a few facts a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunekit.errors import UnsupportedModel
from prunekit.hf.override import override
from prunekit.hf.vision.folds import Fold, runs, sized, squares

Projection = Callable[[Any, Float[Tensor, "... dim"]], Float[Tensor, "... width"]]
"""From the model without its head and what enters its projector to what leaves it, token by token."""

Order = Callable[[Any, Mapping[str, Any]], Int[Tensor, " tokens"]]
"""From the model without its head and the arguments of the call to the row of each token."""


@dataclass(frozen=True, slots=True)
class Neck:
    """How a family turns patches into tokens.

    Attributes:
        path: From the model without its head to the module that gives one row a token, in whatever shape.
            What goes in, cut into as many rows, are the features of the tokens.
        projection: What the model makes of such features.
        fold: Which patches a token is made of.
        order: The rows by tokens, where a tower works in windows; None where rows are in the order of tokens.
        videos: Whether videos go the same way as images.
    """

    path: str
    projection: Projection
    fold: Fold = squares
    order: Order | None = None
    videos: bool = False


def neck_of(base: Any) -> Neck:
    """The neck of a model, given without its head.

    Raises:
        UnsupportedModel: Its family is not known here.
    """
    kind = base.config.model_type
    neck = NECKS.get(kind)
    if neck is None:
        raise UnsupportedModel(
            f"prunekit does not know which patches the visual tokens of {kind!r} are made of. It knows those "
            f"of: {', '.join(sorted(NECKS))}. For this model, use a pipeline that asks for nothing from the "
            "vision tower, and features='decoder'."
        )
    return neck


def _straight(path: str) -> Neck:
    """A projector that maps each of its inputs by itself."""
    return Neck(path, lambda base, features: base.get_submodule(path)(features))


def _unshuffled(part: str) -> Neck:
    """A projector that first puts patches side by side, up to the part behind that."""

    def project(base: Any, features: Tensor) -> Tensor:
        with ExitStack() as stack:
            override(stack, base.multi_modal_projector, "pixel_shuffle", lambda _: nn.Identity())
            return base.multi_modal_projector(features)

    return Neck(f"multi_modal_projector.{part}", project)


def _merged(base: Any, features: Tensor) -> Tensor:
    """Qwen's merger takes the patches of a token one behind the other."""
    patches = features.reshape(-1, features.shape[-1] // base.visual.spatial_merge_size**2)
    return base.visual.merger(patches).unflatten(0, features.shape[:-1])


def _pooled(base: Any, features: Tensor) -> Tensor:
    projector = base.multi_modal_projector
    normed = projector.mm_soft_emb_norm(features)
    return torch.matmul(normed, projector.mm_input_projection_weight).type_as(features)


def _patch_merged(base: Any, features: Tensor) -> Tensor:
    projector = base.multi_modal_projector
    merged = projector.patch_merger.merging_layer(features)
    return projector.linear_2(projector.act(projector.linear_1(merged)))


def _window_order(base: Any, given: Mapping[str, Any]) -> Int[Tensor, " tokens"]:
    """Qwen2.5-VL sorts tokens by window before its first layer, and back behind the last."""
    tower = base.visual
    thw = next(given[name] for name in ("image_grid_thw", "video_grid_thw") if given.get(name) is not None)
    if hasattr(tower, "get_window_index"):  # until some release of transformers 5
        return tower.get_window_index(thw)[0].argsort()
    from transformers.vision_utils import get_vision_window_index

    window = get_vision_window_index(thw, tower.spatial_merge_size, tower.window_size, tower.patch_size)
    return window[0].argsort()


_PROJECTOR = _straight("multi_modal_projector")
_CONNECTOR = _straight("connector.modality_projection")
_MERGER = Neck("visual.merger", _merged, runs, videos=True)

NECKS: Mapping[str, Neck] = {
    "aya_vision": _unshuffled("layernorm"),
    "cohere2_vision": _unshuffled("linear_1"),
    "gemma3": Neck("multi_modal_projector.mm_soft_emb_norm", _pooled),
    "glm4v": Neck("visual.merger", lambda base, features: base.visual.merger(features), runs, videos=True),
    "idefics3": _CONNECTOR,
    "internvl": _PROJECTOR,
    "janus": _straight("aligner"),
    "llava": _PROJECTOR,
    "llava_next": _PROJECTOR,
    "llava_next_video": _PROJECTOR,
    "llava_onevision": _PROJECTOR,
    "mistral3": Neck("multi_modal_projector.patch_merger.merging_layer", _patch_merged, sized),
    "paligemma": _PROJECTOR,
    "qwen2_5_vl": Neck("visual.merger", _merged, runs, _window_order, videos=True),
    "qwen2_vl": _MERGER,
    "qwen3_vl": _MERGER,
    "qwen3_vl_moe": _MERGER,
    "smolvlm": _CONNECTOR,
    "vipllava": _PROJECTOR,
}
"""By `model_type`."""
