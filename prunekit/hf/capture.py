"""One row of attention, without turning efficient attention off.

Transformers looks its attention function up by a name in the config of each attention module. A tap
gives one module a copy of its config with another name, under which a function first looks at queries
and keys and then calls the real one. Masks, other layers and the model's config are untouched, and
positions, norms and soft caps are already in the queries and keys, whatever the family.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from prunekit.errors import UnsupportedModel
from prunekit.kernels.attention import Attending

NAME, FLASH = "prunekit_capture", "prunekit_flash_capture"
"""Where a module asks whether its attention is some flash kernel, it looks for the word in the name."""

TAP = "_prunekit_tap"


class Captured(Exception):
    """Ends a pass through a layer that was run only to see its attention."""


class Tap:
    """Lets `see` look at what one attention module computes, between `open` and `close`."""

    def __init__(self, attention: nn.Module, see: Callable[[Attending], None]) -> None:
        self._attention = attention
        self._see = see
        self._config: Any = attention.config
        self._function = attention_function(attention)

    def open(self) -> None:
        """Swaps the module's config for a copy."""
        tapped = copy.copy(self._config)
        tapped._attn_implementation_internal = FLASH if "flash" in tapped._attn_implementation else NAME
        setattr(tapped, TAP, self)
        self._attention.config = tapped  # pyright: ignore[reportArgumentType]

    def close(self) -> None:
        """Puts the module's own config back."""
        self._attention.config = self._config

    def run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **settings: Any,
    ) -> Any:
        """Looks, then computes the attention as the module would have, its own config in place."""
        tapped = self._attention.config
        self._see(_attending(self._attention, query, key, mask, settings))
        self.close()
        try:
            return self._function(self._attention, query, key, value, mask, **settings)
        finally:
            self._attention.config = tapped


def _attending(
    attention: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, settings: dict[str, Any]
) -> Attending:
    if settings.get("s_aux") is not None:
        raise UnsupportedModel(
            f"{type(attention).__name__} has attention sinks, which prunekit does not score yet."
        )
    return Attending(
        query.detach(),
        key.detach(),
        mask if isinstance(mask, Tensor) else None,
        settings.get("scaling") or query.shape[-1] ** -0.5,
        settings.get("softcap"),
        getattr(attention, "sliding_window", None) or None,
        starts=settings.get("cu_seq_lens_q"),
    )


def attention_function(attention: nn.Module) -> Callable[..., Any]:
    """The function the module would call, found where its own code looks for it.

    Raises:
        UnsupportedModel: It would call none.
    """
    scope = inspect.unwrap(type(attention).forward).__globals__
    name = getattr(attention.config, "_attn_implementation", None)
    functions = {"eager": scope.get("eager_attention_forward"), **scope.get("ALL_ATTENTION_FUNCTIONS", {})}
    if functions.get(name) is None:
        raise UnsupportedModel(
            f"{type(attention).__name__} does not compute its attention ({name}) through transformers' "
            "attention interface, so prunekit cannot see it. Use a pipeline that asks for no attention."
        )
    return functions[name]


def _capture(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> Any:
    tap: Tap = getattr(module.config, TAP)
    return tap.run(query, key, value, attention_mask, **settings)


AttentionInterface.register(NAME, _capture)
AttentionInterface.register(FLASH, _capture)
