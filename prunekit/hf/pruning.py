"""What happened inside a block: the selections, and a report of the newest prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunekit.errors import PrunekitError
from prunekit.hf.report import Prefill, Report, report
from prunekit.hf.shape import Shape
from prunekit.tokens import Selection

HISTORY = 1024
"""How many selections are remembered."""


@dataclass(slots=True, eq=False)
class Pruning:
    """What happens to prompts inside a `with attach(…)` block, to be read during and after it.

    Attributes:
        shape: The sizes of the decoder.
        layer: The pruning layer.
        attention: The attention implementation.
        selections: One for each pruned prompt, newest last; only the newest 1024 are remembered,
            and only the newest holds on to its graph, and so to hidden states.
        prompts: How many prompts were pruned.
        newest: The facts of the newest, for the report.
    """

    shape: Shape
    layer: int
    attention: str
    selections: list[Selection] = field(default_factory=list[Selection])
    prompts: int = 0
    newest: Prefill | None = None

    def add(self, selection: Selection, facts: Prefill) -> None:
        """Remembers a pruned prompt."""
        self.prompts += 1
        self.newest = facts
        if self.selections:
            self.selections[-1] = self.selections[-1].without_graph()
        self.selections.append(selection)
        del self.selections[:-HISTORY]

    def report(self) -> Report:
        """Tokens, operations, cache and milliseconds of the newest prompt.

        Raises:
            PrunekitError: No prompt was pruned yet.
        """
        if self.newest is None:
            raise PrunekitError(
                "Nothing to report yet: no prompt with visual tokens went through the model in this block."
            )
        return report(self.shape, self.layer, self.attention, self.prompts, self.newest)
