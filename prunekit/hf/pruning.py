"""What happened inside a block: the selections, and a report of the newest prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jaxtyping import Bool
from torch import Tensor

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
        cuts: The pruning layers.
        attention: The attention implementation.
        marks: Who is told where visual tokens stand; None after the block.
        selections: What is left of each pruned prompt, newest last; only the newest 1024 are remembered,
            and only the newest holds on to its graph, and so to hidden states.
        by_cut: What the newest prompt was left with by each cut, the last of them being its selection.
        prompts: How many prompts were pruned.
        newest: The facts of the newest, for the report.
    """

    shape: Shape
    cuts: tuple[int, ...]
    attention: str
    marks: Callable[[Tensor], None] | None
    selections: list[Selection] = field(default_factory=list[Selection])
    by_cut: tuple[Selection, ...] = ()
    prompts: int = 0
    newest: Prefill | None = None

    def mark(self, visual: Bool[Tensor, "batch length"]) -> None:
        """Says where the visual tokens of the next prompt stand, one given as embeddings without ids.

        Where the pictures come with the prompt there is no need: their placeholders are found.

        Args:
            visual: True where a visual token stands.

        Raises:
            PrunekitError: The block has ended.
        """
        if self.marks is None:
            raise PrunekitError("This block has ended; say where visual tokens stand inside of one.")
        self.marks(visual)

    def leave(self) -> None:
        """Lets go of the model; what happened stays."""
        self.marks = None

    def add(self, by_cut: tuple[Selection, ...], facts: Prefill) -> None:
        """Remembers a pruned prompt."""
        self.prompts += 1
        self.newest = facts
        if self.selections:
            self.selections[-1] = self.selections[-1].without_graph()
        self.by_cut = by_cut
        self.selections.append(replace(by_cut[-1], present=by_cut[0].present))
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
        return report(self.shape, self.cuts, self.attention, self.prompts, self.newest)
