"""One look at pictures: one run of tower, projector and packing, and what of it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunekit.errors import UnsupportedModel
from prunekit.hf.vision.necks import Neck
from prunekit.hf.vision.patches import Values
from prunekit.hf.vision.tower import Wanted

FEATURES = "features"
"""What the features of tokens are noted under, beside the values of signals."""

Noted = dict[Wanted | str, Float[Tensor, "tokens ..."]]
"""Values for all visual tokens of one kind, in the order of the prompt."""

Pack = Callable[[Float[Tensor, "images tokens channels"]], Float[Tensor, "tokens channels"]]


@dataclass(slots=True, eq=False)
class Look:
    """What was seen on the way from pixels to tokens.

    Attributes:
        given: The arguments of the model's method that looks at pictures.
        patches: The values of each signal, in pieces as the tower computed them.
        tokens: Into how many images and tokens the neck cut its rows; None before it ran.
        features: What entered it, cut alike; None where nobody asked.
        pack: How the model puts tiles together; None where each token is a row of the neck.
    """

    given: Mapping[str, Any]
    patches: dict[Wanted, list[Values]] = field(default_factory=dict[Wanted, list[Values]])
    tokens: tuple[int, int] | None = None
    features: Float[Tensor, "images tokens dim"] | None = None
    pack: Pack | None = None

    def enter(self, entering: Tensor, leaving: Tensor, *, features: bool) -> None:
        """Notes what enters the neck, and its shape by what leaves it.

        Raises:
            UnsupportedModel: The neck ran before.
        """
        if self.tokens is not None:
            raise UnsupportedModel(
                "The projector ran twice for one set of pictures, which is not understood."
            )
        rows = leaving.flatten(1, -2) if leaving.ndim > 2 else leaving[None]
        self.tokens = rows.shape[0], rows.shape[1]
        if features:
            self.features = entering.detach().reshape(*self.tokens, -1)

    def noted(self, base: Any, neck: Neck, needs: list[Wanted]) -> Noted:
        """What was seen, token by token.

        Raises:
            UnsupportedModel: Something that is asked for did not come by.
        """
        unseen = [need for need in needs if need not in self.patches]
        if self.tokens is None or unseen:
            what = ", ".join(map(str, unseen)) or "The features"
            raise UnsupportedModel(
                f"{what} could not be seen: the layer did not run, or not through transformers' attention "
                "interface."
            )
        noted: Noted = {need: self._folded(base, neck, torch.cat(self.patches[need], 1)) for need in needs}
        if self.features is not None:
            noted[FEATURES] = self.features
        order = None if neck.order is None else neck.order(base, self.given)
        return {name: self._lined_up(values, order) for name, values in noted.items()}

    def _folded(self, base: Any, neck: Neck, patches: Values) -> Float[Tensor, "images tokens ..."]:
        images, tokens = self.tokens or (0, 0)
        folded = neck.fold(patches.flatten(2), tokens, self.given, base)
        if tuple(folded.shape[:2]) != (images, tokens):
            raise UnsupportedModel(
                f"The vision tower ran on {tuple(patches.shape[:2])} images and patches, its projector on "
                f"{images} and {tokens} tokens, which does not go together."
            )
        return folded.unflatten(2, patches.shape[2:])

    def _lined_up(self, values: Tensor, order: Tensor | None) -> Float[Tensor, "tokens ..."]:
        """The rows of the neck as the tokens of the prompt."""
        flat = values.flatten(2)
        lined = flat.flatten(0, 1) if self.pack is None else self.pack(flat)
        lined = lined if order is None else lined[order.to(lined.device)]
        return lined.unflatten(1, values.shape[2:])
