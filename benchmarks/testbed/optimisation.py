"""Muon for the matrices, AdamW for the rest, and one schedule by step for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_LEAST_SIDE = 64


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Return the factor on the learning rate at one step of a course.

    Up over `warm_up` steps, flat to 55 % of the course, then a line down to 2 %.
    """
    progress = step / steps
    warm = min(1.0, step / warm_up + 0.02)
    return warm * (1.0 if progress < 0.55 else max(0.02, (1 - progress) / 0.45))


class Optimisation:
    """Two optimisers that step together.

    Muon takes the hidden matrices (two dimensions, both 64 or more, no embeddings); AdamW
    takes everything else at 0.7 of the rate.
    """

    def __init__(self, groups: Sequence[tuple[Sequence[nn.Module], float]]) -> None:
        """Sort the parameters of modules; each group has its highest learning rate."""
        self.parameters: list[nn.Parameter] = []
        muon: list[dict[str, Any]] = []
        adam: list[dict[str, Any]] = []
        for modules, rate in groups:
            matrices, others = _sorted(modules)
            self.parameters += [*matrices, *others]
            muon.append({"params": matrices, "peak": rate})
            adam.append({"params": others, "peak": 0.7 * rate})
        self._optimisers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(muon, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(adam, weight_decay=0.01, betas=(0.9, 0.98)),
        )

    def step(self, factor: float) -> None:
        """Clip the gradients, step at `factor` of the highest rate, clear the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of both optimisers."""
        return [optimiser.state_dict() for optimiser in self._optimisers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take up the states that `state_dict` returned."""
        for optimiser, state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)


def _sorted(modules: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Separate hidden matrices from all other parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            hidden = parameter.ndim == 2 and min(parameter.shape) >= _LEAST_SIDE
            (matrices if hidden and not _is_embedding(name) else others).append(parameter)
    return matrices, others


def _is_embedding(name: str) -> bool:
    """Whether a parameter is a word, patch or position embedding."""
    return "embed" in name
