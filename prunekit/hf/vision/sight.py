"""What pipelines want from the vision tower: looked at while it runs, handed out when tokens are chosen."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prunekit.errors import PrunekitError, UnsupportedModel
from prunekit.hf.capture import Tap
from prunekit.hf.forward import ForwardPass
from prunekit.hf.override import override
from prunekit.hf.places import Places, is_visual
from prunekit.hf.vision.look import FEATURES, Look, Noted
from prunekit.hf.vision.necks import Neck, neck_of
from prunekit.hf.vision.patches import values_of
from prunekit.hf.vision.tower import Tower, Wanted
from prunekit.kernels.attention import Attending
from prunekit.signals import Signal, VisionAttention, VisionKeys

Kind = Literal["image", "video"]
KINDS: tuple[Kind, Kind] = ("image", "video")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the vision tower showed of the visual tokens of a pass.

    Attributes:
        signals: The signals asked for: (batch, …, tokens), 0 where padded and for tokens of no patch.
        features: What enters the projector for each token, likewise; None where not asked for.
    """

    signals: dict[Signal, Tensor]
    features: Float[Tensor, "batch tokens dim"] | None = None


class Sight:
    """Looks on when a model looks at pictures; where nobody asks for anything, it does nothing at all.

    The model may look before its forward begins, as `generate` does, and once for rows that are repeated.
    What was seen is kept until tokens are chosen, and no longer.
    """

    def __init__(self, base: Any, tower: Tower, neck: Neck, needs: list[Wanted], *, features: bool) -> None:
        self._base = base
        self._tower = tower
        self._neck = neck
        self._needs = needs
        self._features = features
        self._look: Look | None = None
        self._noted: dict[str, Noted] = {}

    @classmethod
    def of(cls, model: nn.Module, needs: Collection[Signal], *, features: bool) -> Sight | None:
        """What is to be seen of a model; None for nothing.

        Raises:
            UnsupportedModel: The model cannot show it, and why.
        """
        wanted = [need for need in needs if isinstance(need, (VisionAttention, VisionKeys))]
        if not wanted and not features:
            return None
        base: Any = getattr(model, "base_model", model)
        tower, neck = Tower.of(base), neck_of(base)
        for need in wanted:
            tower.layer(need)
        return cls(base, tower, neck, wanted, features=features)

    @property
    def projection(self) -> Callable[[Float[Tensor, "batch tokens dim"]], Tensor] | None:
        """What the model's own projector makes of features; None where tokens do not go through it alone.

        That is so where tiles become a canvas: its newlines come from no feature.
        """
        if hasattr(self._base, PACK):
            return None
        return functools.partial(self._neck.projection, self._base)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the projector."""
        return next(self._base.get_submodule(self._neck.path).parameters()).dtype

    def install(self, stack: ExitStack) -> None:
        """Puts taps, hook and overrides on the model, and on the stack how to take them off."""
        stack.callback(self._noted.clear)
        layers: dict[int, list[Wanted]] = {}
        for need in self._needs:
            layers.setdefault(self._tower.layer(need), []).append(need)
        for number, needs in layers.items():
            tap = Tap(self._tower.attentions[number], functools.partial(self._see, needs))
            tap.open()
            stack.callback(tap.close)
        neck = self._base.get_submodule(self._neck.path)
        stack.callback(neck.register_forward_hook(self._enter).remove)
        for kind in KINDS:
            override(stack, self._base, f"get_{kind}_features", functools.partial(self._looking, kind))
        override(stack, self._base, PACK, self._packing)

    def seen(self, forward: ForwardPass, places: Places) -> Seen:
        """What was seen of the visual tokens of this pass; it is let go of.

        Raises:
            PrunekitError: The model did not look at the pictures of this pass, or at others.
        """
        noted = dict(self._noted)
        self._noted.clear()
        copies = forward.pictures.copies
        videos = self._videos(forward, places)
        everything = {
            name: self._joined(name, noted, videos)
            for name in (*self._needs, *((FEATURES,) if self._features else ()))
        }
        counts = forward.pictures.once(places.counts)
        laid: dict[Any, Tensor] = {}
        for name, values in everything.items():
            rows = [row for row in values.split(list(counts)) for _ in range(copies)]
            laid[name] = values.new_zeros(*places.present.shape, *values.shape[1:])
            laid[name][places.present] = torch.cat(rows)
        features = laid.pop(FEATURES, None)
        return Seen({need: values.movedim(1, -1) for need, values in laid.items()}, features)

    def _videos(self, forward: ForwardPass, places: Places) -> Bool[Tensor, " tokens"]:
        """Which visual tokens of the rows that were looked at stand for videos."""
        config, copies = self._base.config, forward.pictures.copies
        names = ("video_token_id", "video_token_index")
        ids = [number for name in names if isinstance(number := getattr(config, name, None), int)]
        present, told = places.present[::copies], forward.pictures.inputs.get("input_ids")
        if told is None:
            return torch.zeros_like(present[present])
        return is_visual(told.to(present.device).gather(1, places.index[::copies]), ids)[present]

    def _joined(self, name: Any, noted: dict[str, Noted], videos: Bool[Tensor, " tokens"]) -> Tensor:
        """The values of all visual tokens, from those of images and those of videos."""
        joined: Tensor | None = None
        for kind, where in zip(KINDS, (~videos, videos), strict=True):
            count = int(where.sum())
            if not count:
                continue
            held = noted.get(kind)
            values = None if held is None else held[name].to(where.device)
            if values is None or len(values) != count:
                raise PrunekitError(
                    f"The prompt has {count} tokens of {kind}s, but the vision tower showed "
                    f"{0 if values is None else len(values)} inside this `with` block. Pass pixels, no "
                    "encoder outputs made before, and as many pictures as the prompt names."
                )
            if joined is None:
                joined = values.new_zeros(len(where), *values.shape[1:])
            joined[where] = values
        return joined if joined is not None else torch.zeros(0)

    # On the model

    def _looking(self, kind: Kind, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def look(*given: Any, **named: Any) -> Any:
            if self._look is not None:  # some look at videos the way they look at images
                return original(*given, **named)
            if kind == "video" and not self._neck.videos:
                raise UnsupportedModel(
                    f"prunekit cannot follow the patches of videos in {type(self._base).__name__}. Use a "
                    "pipeline that asks for nothing from the vision tower."
                )
            arguments = dict(zip(inspect.signature(original).parameters, given, strict=False)) | named
            self._look = Look(arguments)
            try:
                output = original(*given, **named)
                with torch.no_grad():
                    self._noted[kind] = self._look.noted(self._base, self._neck, self._needs)
                return output
            finally:
                self._look = None

        return look

    def _packing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def pack(*given: Any, **named: Any) -> Any:
            arguments = signature.bind(*given, **named).arguments
            if self._look is not None:
                tiles = [len(image) for image in arguments["image_features"]]

                def alike(values: Float[Tensor, "images tokens channels"]) -> Tensor:
                    newline = values.new_zeros(values.shape[-1])
                    changed = {"image_features": values.split(tiles), "image_newline": newline}
                    return torch.cat(list(original(**{**arguments, **changed})[0]))

                self._look.pack = alike
            return original(*given, **named)

        return pack

    def _enter(self, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if self._look is not None:
            self._look.enter(given[0], output, features=self._features)

    def _see(self, needs: list[Wanted], attending: Attending) -> None:
        if self._look is None:
            return
        with torch.no_grad():
            for part in replace(attending, causal=False).sequences():
                for need in needs:
                    values = values_of(need, part, class_token=self._tower.has_class_token)
                    self._look.patches.setdefault(need, []).append(values)


PACK = "pack_image_features"
"""The model's method that puts the tiles of an image together."""
