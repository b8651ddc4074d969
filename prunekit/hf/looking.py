"""Pictures looked at once: what the vision tower gives is kept, so that a pass costs what its tokens cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from prunekit.hf.clock import now
from prunekit.hf.override import override

METHODS = ("get_image_features", "get_video_features")


class _Looked(Exception):
    """Ends a pass that was run for its pictures only."""


@dataclass(slots=True, eq=False)
class Looking:
    """What a vision tower was asked, and what it gave.

    Attributes:
        model: The model it belongs to.
        live: Whether it looks anew each time, for pipelines that look on.
    """

    model: PreTrainedModel
    live: bool = False
    _looked: dict[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    _seen: dict[str, Any] = field(default_factory=dict[str, Any])

    def keeping(self, name: str, look: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, which looks once and gives that again from then on."""

        @functools.wraps(look)
        def seen(*given: Any, **named: Any) -> Any:
            if self.live:
                return look(*given, **named)
            if name not in self._seen:
                self._looked[name] = functools.partial(look, *given, **named)
                self._seen[name] = self._looked[name]()
            return self._seen[name]

        return seen

    def look(self, inputs: Mapping[str, Any]) -> None:
        """Runs `generate` up to the decoder, so that the pictures are known before anything is measured."""

        def stop(*_: object) -> None:
            raise _Looked

        hook = self.model.get_decoder().register_forward_pre_hook(stop)
        with suppress(_Looked):
            try:
                self.model.generate(**inputs, max_new_tokens=1)  # pyright: ignore[reportCallIssue]
            finally:
                hook.remove()

    def again_ms(self) -> float:
        """Milliseconds for looking once more, projector included; 0 where nothing was looked at."""
        start = now(self.model.device)
        for look in self._looked.values():
            look()
        return 1e3 * (now(self.model.device) - start) if self._looked else 0.0


@contextmanager
def seen_once(model: PreTrainedModel) -> Generator[Looking]:
    """Lets a model's vision tower and projector run once inside the block, for the first pictures they get.

    Only for passes over the same pictures again and again. A model without the methods of transformers 5
    for it looks every time.
    """
    looking = Looking(model)
    with ExitStack() as stack:
        for name in METHODS:
            override(stack, model.base_model, name, functools.partial(looking.keeping, name))
        yield looking
