"""What the vision tower says of each patch, and which patches a visual token is made of: by other ways.

Attention and keys are what the tower's own eager attention function computes with; it is wrapped where its
module looks for it. Patches are found by differentiating: with attention silenced, a token depends on the
pixels of its own patches only. Nothing here knows how a family lays patches out.

A patch is named (image, number): as the tower is handed them, in raster order where images have two sides.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from families import IMAGE, VIDEO, Case, noise
from sight import _silence
from torch import Tensor

from prunekit import Signal, VisionKeys

Patch = tuple[int, int]
TOWERS = ("vision_tower", "visual", "vision_model")
PIXELS = ("pixel_values", "hidden_states")


def tower_of(model: Any) -> Any:
    return next(getattr(model.base_model, name) for name in TOWERS if hasattr(model.base_model, name))


def attentions_of(model: Any) -> list[Any]:
    """The attention of every layer, by the names of the classes."""
    parts = [part for part in tower_of(model).modules() if hasattr(part, "config")]
    return [part for part in parts if type(part).__name__.endswith("Attention")]


@dataclass
class Recorded:
    """The calls of one layer's attention function, and what the tower was handed."""

    pixels: Tensor
    sizes: list[list[int]] | None
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    order: list[int] | None = None

    def values(self, model: Any, signal: Signal, query: str) -> dict[Patch, Tensor]:
        """The value of a signal for each patch, query by query; the class token is patch -1."""
        found: dict[Patch, Tensor] = {}
        row = 0
        for weights, keys in self.calls:
            for image in range(len(keys)):
                for column in range(keys.shape[2]):
                    patch = self._patch(model, image, column, row + column)
                    if isinstance(signal, VisionKeys):
                        found[patch] = keys[image, :, column]
                        continue
                    readers = [
                        weights[image, :, reader, column]
                        for reader in ([0] if query == "cls" else range(keys.shape[2]))
                        if self._patch(model, image, reader, row + reader)[0] == patch[0]
                    ]
                    found[patch] = sum(readers) / len(readers)
            row += keys.shape[2]
        return found

    def _patch(self, model: Any, image: int, column: int, row: int) -> Patch:
        if self.order is not None:
            return 0, self.order[row]
        if self.sizes is not None:
            side = tower_of(model).patch_size
            for number, (height, width) in enumerate(self.sizes):
                count = (height // side) * (width // side)
                if column < count:
                    down, across = divmod(column, width // side)
                    return number, down * (self.pixels.shape[-1] // side) + across
                column -= count
        return image, column - (self.calls[0][1].shape[2] - self._patches(model))

    def _patches(self, model: Any) -> int:
        side = patch_side(model)
        return (self.pixels.shape[-2] // side) * (self.pixels.shape[-1] // side)


def patch_side(model: Any) -> int:
    side = model.config.vision_config.patch_size
    return side if isinstance(side, int) else side[0]


def recorded(case: Case, layer: int) -> Recorded:
    """What a layer of an eager twin computes with."""
    twin = copy.deepcopy(case.model)
    twin.set_attn_implementation("eager")
    found: list[Recorded] = []
    attention = attentions_of(twin)[layer]
    scope = sys.modules[type(attention).__module__]
    original = scope.eager_attention_forward

    def wrapped(module: Any, query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Any:
        output, weights = original(module, query, key, *rest, **named)
        if module is attention:
            found[0].calls.append((weights, key))
        return output, weights

    with _handed(twin, found), ExitStack() as stack:
        scope.eager_attention_forward = wrapped
        stack.callback(setattr, scope, "eager_attention_forward", original)
        with torch.no_grad():
            twin(**case.inputs)
    return found[0]


@contextmanager
def _handed(model: Any, found: list[Recorded]) -> Iterator[None]:
    """Notes what the tower is handed, and in what order its first block finds the patches."""
    tower = tower_of(model)

    def enter(module: Any, given: Any, named: Any) -> None:
        pixels = given[0] if given else next(named[name] for name in PIXELS if name in named)
        sizes = named.get("image_sizes")
        found.append(Recorded(pixels, None if sizes is None else torch.as_tensor(sizes).tolist()))

    handles = [tower.register_forward_pre_hook(enter, with_kwargs=True)]
    if hasattr(tower, "patch_embed"):
        embedded: list[Tensor] = []

        def embed(module: Any, given: Any, output: Tensor) -> None:
            embedded[:] = [output]

        def block(module: Any, given: Any) -> None:
            same = (given[0][:, None] == embedded[0][None]).all(-1)
            in_windows = bool(same.any(1).all())
            found[0].order = same.int().argmax(1).tolist() if in_windows else list(range(len(same)))

        handles += [
            tower.patch_embed.register_forward_hook(embed),
            tower.blocks[0].register_forward_pre_hook(block),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Stop(Exception):
    """Ends a forward where the language model begins."""


def embedded(model: Any, inputs: dict[str, Any]) -> Tensor:
    """What enters the language model."""
    found: list[Tensor] = []

    def stop(module: Any, given: Any, named: Any) -> None:
        found.append(named["inputs_embeds"])
        raise _Stop

    handle = model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(**inputs)
    except _Stop:
        return found[0]
    finally:
        handle.remove()
    raise AssertionError("the decoder was not reached")


def made_of(case: Case) -> list[list[list[Patch]]]:
    """For each visual token of each row the patches it is made of."""
    twin = copy.deepcopy(case.model)
    _silence(twin)
    tower, leaves = tower_of(twin), []

    def enter(module: Any, given: Any, named: Any) -> Any:
        if given:
            leaves.append(given[0].detach().requires_grad_())
            return (leaves[0], *given[1:]), named
        name = next(name for name in PIXELS if name in named)
        leaves.append(named[name].detach().requires_grad_())
        return given, {**named, name: leaves[0]}

    handle = tower.register_forward_pre_hook(enter, with_kwargs=True)
    states = embedded(twin, case.inputs)
    handle.remove()
    ids = case.inputs["input_ids"]
    visual = (ids == IMAGE) | (ids == VIDEO)
    probe = noise(states.shape[-1], seed=5)
    return [
        [
            _patches(torch.autograd.grad(states[row, column] @ probe, leaves, retain_graph=True)[0], twin)
            for column in visual[row].nonzero()[:, 0].tolist()
        ]
        for row in range(len(ids))
    ]


def _patches(slope: Tensor, model: Any) -> list[Patch]:
    if slope.ndim == 2:
        return [(0, row) for row in slope.abs().sum(1).nonzero()[:, 0].tolist()]
    side = patch_side(model)
    pooled = torch.nn.functional.avg_pool2d(slope.abs().sum(1, keepdim=True), side)[:, 0]
    return [(image, row * pooled.shape[2] + column) for image, row, column in pooled.nonzero().tolist()]
