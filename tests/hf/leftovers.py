"""What an attachment could leave behind on a model."""

from __future__ import annotations

from typing import Any

from torch import nn


def marks(model: nn.Module) -> list[Any]:
    """Everything an attachment could leave behind: hooks, attributes, configs."""
    found: list[Any] = []
    for name, module in model.named_modules():
        own = {key: id(value) for key, value in module.__dict__.items() if key not in nn.Module().__dict__}
        hooks = {
            key: list(value)
            for key, value in module.__dict__.items()
            if "hooks" in key and isinstance(value, dict)
        }
        found.append((name, own, hooks, id(getattr(module, "config", None))))
    return found
