"""The vision tower inside a multimodal model: its layers, by their attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from prunekit.errors import UnsupportedModel
from prunekit.hf.capture import attention_function
from prunekit.signals import VisionAttention, VisionKeys

Wanted = VisionAttention | VisionKeys

_TOWERS = ("vision_tower", "visual", "vision_model")
_ATTENTIONS = ("self_attn", "attn", "attention")
_CLASS_TOKENS = {"class_embedding", "cls_token"}


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """A vision tower of ordinary layers.

    Attributes:
        module: The tower.
        attentions: What attends in each layer.
        has_class_token: Whether a token that stands for no patch comes first.
    """

    module: nn.Module
    attentions: tuple[nn.Module, ...]
    has_class_token: bool

    @classmethod
    def of(cls, base: nn.Module) -> Tower:
        """The tower of a model without its head.

        Raises:
            UnsupportedModel: It has none, or one of another make.
        """
        name = next((name for name in _TOWERS if hasattr(base, name)), None)
        if name is None:
            raise UnsupportedModel(
                f"{type(base).__name__} has no vision tower under any of the names {', '.join(_TOWERS)}. Use "
                "a pipeline that asks for nothing from it."
            )
        module: nn.Module = getattr(base, name)
        lists = (part for part in module.modules() if isinstance(part, nn.ModuleList))
        attentions = max((_attentions(layers) for layers in lists), key=len, default=())
        if not attentions:
            raise UnsupportedModel(
                f"{type(module).__name__}, the vision tower, has no layers with ordinary attention (one of "
                f"{', '.join(_ATTENTIONS)}, with a `config`). Use a pipeline that asks for nothing from it."
            )
        named = {name.rsplit(".", 1)[-1] for name, _ in module.named_parameters()}
        return cls(module, attentions, bool(named & _CLASS_TOKENS))

    def layer(self, wanted: Wanted) -> int:
        """The number of the layer that a signal asks for, from 0.

        Raises:
            UnsupportedModel: The tower cannot give the signal.
        """
        count = len(self.attentions)
        if not -count <= wanted.layer < count:
            raise UnsupportedModel(
                f"{wanted} asks for a layer that {type(self.module).__name__} does not have. Choose one from "
                f"{-count} to {count - 1}."
            )
        if isinstance(wanted, VisionAttention) and wanted.query == "cls" and not self.has_class_token:
            raise UnsupportedModel(
                f"{type(self.module).__name__} has no class token. Use query='mean', or 'auto', for this "
                "model."
            )
        number = wanted.layer % count
        attention_function(self.attentions[number])
        return number


def _attentions(layers: nn.ModuleList) -> tuple[nn.Module, ...]:
    """The attention of each of the layers; none where one has no ordinary one."""
    found: list[Any] = [
        next((getattr(layer, name) for name in _ATTENTIONS if hasattr(layer, name)), None) for layer in layers
    ]
    return tuple(found) if all(hasattr(part, "config") for part in found) else ()
