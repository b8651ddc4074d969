"""The values that flow through a pipeline: frozen, batch-first, ragged by mask.

A batch holds B samples padded to N tokens. Everything a stage sees or says is one of these values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.errors import TokenError, UnknownName, nearest
from prunekit.kernels.engine import Engine
from prunekit.kernels.known import Pick
from prunekit.kernels.ranking import NEVER, packed_key
from prunekit.signals import Signal

if TYPE_CHECKING:
    from prunekit.graph import Graph

Scores = Float[Tensor, "batch tokens"]
"""Higher is worth more. No unit: only order matters, and for a ratio or weight bias the ratio to 0."""

Kept = Bool[Tensor, "batch tokens"]
"""Which tokens are kept: a mask, so no duplicates, no index out of range, and order for free."""

Room = Int[Tensor, " batch"]
"""How many more tokens each sample may keep."""

Removal = Literal["ratio", "difference", "weight"]


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """The visual tokens of B samples, padded to N, at the place of pruning.

    Attributes:
        features: What a token carries there, for instance the hidden state entering the pruning layer.
        positions: `(plane, row, column)` of each token; a plane is one image, tile or frame. Tokens of
            different planes are never neighbours.
        present: False marks padding: never selected, never at the end of an edge, whatever it holds.
        signals: What the stages of the pipeline declared they need, by `Signal`.
        total: How many tokens each sample had before earlier cuts, which shares of a budget are of; at most
            as many as there are places for. None where nothing was cut yet.

    Raises:
        TokenError: The shapes do not agree.
    """

    features: Float[Tensor, "batch tokens dim"]
    positions: Int[Tensor, "batch tokens 3"]
    present: Bool[Tensor, "batch tokens"]
    signals: Mapping[Signal, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    total: Room | None = None

    def __post_init__(self) -> None:
        for name in ("features", "positions", "present"):
            if not isinstance(getattr(self, name), Tensor):
                raise TokenError(f"{name} must be a tensor; got a {type(getattr(self, name)).__name__}.")
        lead = tuple(self.features.shape[:2])
        if self.features.ndim != 3 or not self.features.shape[-1]:
            raise TokenError(f"features are (batch, tokens, dim); got {tuple(self.features.shape)}.")
        if tuple(self.positions.shape) != (*lead, 3):
            raise TokenError(
                f"positions are (batch, tokens, 3) = {(*lead, 3)}; got {tuple(self.positions.shape)}."
            )
        if self.positions.dtype != torch.int64:
            raise TokenError(f"positions are int64 (plane, row, column); got {self.positions.dtype}.")
        if tuple(self.present.shape) != lead or self.present.dtype != torch.bool:
            raise TokenError(
                f"present is a bool mask (batch, tokens) = {lead}; "
                f"got {self.present.dtype} {tuple(self.present.shape)}."
            )
        for signal, value in self.signals.items():
            last = lead[1] if signal.per_token else value.shape[-1]
            if value.shape[0] != lead[0] or value.shape[-1] != last:
                axes = f"tokens) = ({lead[0]}, …, {last})" if signal.per_token else f"dim) = ({lead[0]}, …)"
                raise TokenError(f"signal {signal} is (batch, …, {axes}; got {tuple(value.shape)}.")
        if self.total is not None and tuple(self.total.shape) != lead[:1]:
            raise TokenError(f"total is (batch,) = {lead[:1]}; got {tuple(self.total.shape)}.")
        devices = {tensor.device for tensor in (self.features, self.positions, self.present)}
        if len(devices | {value.device for value in self.signals.values()}) > 1:
            raise TokenError("features, positions, present and signals are on different devices.")

    @classmethod
    def grid(
        cls,
        features: Float[Tensor, "batch tokens dim"],
        rows: int,
        columns: int,
        signals: Mapping[Signal, Tensor] | None = None,
    ) -> TokenBatch:
        """Full samples in raster order: one plane of `rows` × `columns` after another."""
        batch, count, _ = features.shape
        if rows < 1 or columns < 1 or count % (rows * columns):
            raise TokenError(f"{count} tokens are not a whole number of {rows} × {columns} planes.")
        index = torch.arange(count, device=features.device)
        cell = index % (rows * columns)
        positions = torch.stack([index // (rows * columns), cell // columns, cell % columns], -1)
        return cls(
            features,
            positions.expand(batch, -1, -1),
            torch.ones(batch, count, dtype=torch.bool, device=features.device),
            MappingProxyType(dict(signals or {})),
        )

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same tokens on another device."""
        signals = {signal: value.to(device) for signal, value in self.signals.items()}
        features, positions, present = (
            tensor.to(device) for tensor in (self.features, self.positions, self.present)
        )
        total = None if self.total is None else self.total.to(device)
        return TokenBatch(features, positions, present, MappingProxyType(signals), total)

    @property
    def counts(self) -> Room:
        """How many tokens each sample has, padding not counted."""
        return self.present.sum(-1)

    def signal(self, wanted: Signal) -> Tensor:
        """The captured value of a signal.

        Raises:
            UnknownName: It was not captured.
        """
        if wanted not in self.signals:
            held = ", ".join(map(str, self.signals)) or "none"
            raise UnknownName(
                f"These tokens carry no {wanted} (held: {held}). Attach the pipeline to a model, which "
                "captures what its stages need, or hand it over: TokenBatch(…, signals={…})."
            )
        return self.signals[wanted]


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """What a score owes to position or padding rather than content, and how it is taken away.

    `ratio` divides by `values + epsilon`, `difference` subtracts `values`, `weight` multiplies by them. Ratio
    and weight make sense of scores of 0 and more only, as attention and norms are.
    """

    values: Float[Tensor, "batch tokens"]
    removal: Removal = "ratio"
    epsilon: float = 1e-7

    def remove(self, scores: Scores) -> Scores:
        """The scores freed of this bias, in float32."""
        scores, values = scores.float(), self.values.float()
        if self.removal == "ratio":
            return scores / (values + self.epsilon)
        if self.removal == "difference":
            return scores - values
        return scores * values


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What selectors choose from: the tokens, their debiased scores, and the graph of look-alikes.

    Attributes:
        tokens: The tokens.
        scores: Their debiased scores.
        graph: Who is like whom.
        limit: No sample keeps more than this in the end; None for as many as there are tokens. Known
            without reading anything from the device.
        engine: How kernels run: `host` may read values, `device` must not.
    """

    tokens: TokenBatch
    scores: Scores
    graph: Graph
    limit: int | None = None
    engine: Engine = "host"

    @property
    def most(self) -> int:
        """The most tokens any sample can keep, what is kept so far included."""
        tokens = self.scores.shape[-1]
        return tokens if self.limit is None else min(self.limit, tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """What a selector that has more to say than a mask returns.

    Attributes:
        kept: All that is kept after this step.
        suppressing: The tokens among them that keep their neighbours in the graph out; None for none.
        exact: Whether each sample's are those the selector's definition gives; None for all. A kernel that
            must not read values can run out of candidates it has looked at; on the host all must be.
        way: How it was computed, for people.
    """

    kept: Kept
    suppressing: Kept | None = None
    exact: Bool[Tensor, " batch"] | None = None
    way: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What is still to be read of a selection made without reading anything.

    Attributes:
        faults: For each step whether it dropped what was kept, kept padding, kept too much.
        exact: For each sample whether the selection is what the pipeline's definition gives.
        steps: The selectors that `faults` is about.
        again: Makes the selection anew, reading as it goes.
    """

    faults: Bool[Tensor, "steps 3"]
    exact: Bool[Tensor, " batch"]
    steps: tuple[str, ...]
    again: Callable[[], Selection]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one token was kept or dropped.

    Attributes:
        token: Its index in the sample.
        position: Its plane, row and column.
        score: Its importance.
        biases: What was taken from it, one value for each bias stage.
        debiased: The score that selectors saw.
        kept_by: The step that kept it; None if it was dropped.
        suppressed_by: The kept look-alike that keeps it out; None if it was kept, or had no such neighbour
            and was dropped for its score alone.
        way: How the step that kept it was computed; empty where there is one way only.
    """

    token: int
    position: tuple[int, int, int]
    score: float
    biases: tuple[float, ...]
    debiased: float
    kept_by: str | None
    suppressed_by: int | None
    way: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which tokens are kept, and everything that led there.

    Attributes:
        kept: The kept tokens.
        kept_by: For each token the index into `steps` of the step that kept it, -1 where it was dropped.
        steps: The names of the steps, in order; the last is `rest`: the room no selector
            used, given to the best tokens left.
        scores: The importance scores.
        debiased: The scores that selectors saw.
        positions: As in `TokenBatch`.
        present: As in `TokenBatch`.
        biases: What was taken from the scores, in turn.
        graph: Who is like whom; None where it was let go to free the memory of the features in it.
        suppressing: The kept tokens that keep their neighbours out; None for none.
        ways: How each step was computed, for people; empty where there is one way only.
        verdict: What is still to be read of it; None where nothing is. See `settled`.
        merged: The features after merging: changed for kept tokens, for all others as they were; None where
            nothing is merged, or where they were let go to free their memory.
    """

    kept: Kept
    kept_by: Int[Tensor, "batch tokens"]
    steps: tuple[str, ...]
    scores: Scores
    debiased: Scores
    positions: Int[Tensor, "batch tokens 3"]
    present: Bool[Tensor, "batch tokens"]
    biases: tuple[Bias, ...] = ()
    graph: Graph | None = None
    suppressing: Kept | None = None
    ways: tuple[str, ...] = ()
    verdict: Verdict | None = None
    merged: Float[Tensor, "batch tokens dim"] | None = None

    @property
    def counts(self) -> Room:
        """How many tokens each sample keeps."""
        return self.kept.sum(-1)

    def by(self, steps: Sequence[str]) -> Kept:
        """The tokens that these steps kept; all kept ones where none is named.

        Raises:
            UnknownName: There is no such step.
        """
        if not steps:
            return self.kept
        for name in steps:
            if name not in self.steps:
                raise UnknownName(f"No step {name!r} kept any token. {nearest(name, self.steps)}")
        found = [self.kept_by == step for step, name in enumerate(self.steps) if name in steps]
        return torch.stack(found).any(0)

    @property
    def counts_by_step(self) -> Int[Tensor, "batch steps"]:
        """How many tokens of each sample each step kept."""
        steps = torch.arange(len(self.steps), device=self.kept.device)
        return (self.kept_by[..., None] == steps).sum(1)

    @property
    def exact(self) -> Bool[Tensor, " batch"]:
        """Whether each sample's tokens are those of the pipeline's definition, on the tokens' device.

        Always, but for independent sets on accelerators that run out of the candidates looked at: those
        are filled up by score instead, and `settled` selects anew.
        """
        if self.verdict is None:
            return torch.ones(len(self.kept), dtype=torch.bool, device=self.kept.device)
        return self.verdict.exact

    def settled(self) -> Selection:
        """This selection, checked and exact: reads the device once, if anything is left to read at all.

        Where a sample is not exact, all are selected again on the host's terms, which read as they go.

        Raises:
            TokenError: A selector did what none may do.
        """
        if self.verdict is None:
            return self
        *faults, exact = torch.cat([self.verdict.faults.flatten(), self.verdict.exact.all()[None]]).tolist()
        refuse_faults(self.verdict.steps, faults)
        return replace(self, verdict=None) if exact else self.verdict.again()

    @property
    def indices(self) -> Int[Tensor, "batch most"]:
        """The kept tokens of each sample, ascending; -1 at the end of samples that keep fewer."""
        most = int(self.counts.max()) if self.kept.numel() else 0
        last = self.kept.shape[-1]
        places = torch.arange(last, device=self.kept.device).expand(self.kept.shape)
        ordered = places.masked_fill(~self.kept, last).sort(-1).values[:, :most]
        return ordered.masked_fill(ordered == last, -1)

    def explain(self, sample: int, token: int) -> Explanation:
        """Why a token was kept or dropped.

        Raises:
            TokenError: There is no such token.
        """
        if not (0 <= sample < len(self.kept) and 0 <= token < self.kept.shape[-1]):
            raise TokenError(
                f"There is no token {token} of sample {sample}: this selection has {self.kept.shape[-1]} "
                f"tokens in each of {len(self.kept)} samples."
            )
        return self._explained(sample, [token])[0]

    def explanations(self, sample: int) -> list[Explanation]:
        """Why each present token of a sample was kept or dropped."""
        return self._explained(sample, self.present[sample].nonzero().flatten().tolist())

    def without_graph(self) -> Selection:
        """The same selection, settled and holding on to no features; it cannot say who suppressed whom."""
        return replace(self.settled(), graph=None, merged=None)

    def _explained(self, sample: int, tokens: list[int]) -> list[Explanation]:
        suppressors = self._suppressors(sample, tokens)
        positions, steps = self.positions[sample].tolist(), self.kept_by[sample].tolist()
        scores, debiased = self.scores[sample].tolist(), self.debiased[sample].tolist()
        biases = [bias.values[sample].tolist() for bias in self.biases]
        return [
            Explanation(
                token=token,
                position=tuple(positions[token]),
                score=scores[token],
                biases=tuple(bias[token] for bias in biases),
                debiased=debiased[token],
                kept_by=None if steps[token] < 0 else self.steps[steps[token]],
                suppressed_by=None if steps[token] >= 0 or suppressor < 0 else suppressor,
                way=self.ways[steps[token]] if steps[token] >= 0 and self.ways else "",
            )
            for token, suppressor in zip(tokens, suppressors, strict=True)
        ]

    def _suppressors(self, sample: int, tokens: list[int], block: int = 256) -> list[int]:
        """For each token the best of its suppressing neighbours, ties by lowest index; -1 for none."""
        if self.suppressing is None:
            return [-1] * len(tokens)
        if self.graph is None:
            raise TokenError(
                "This selection has let go of its graph. Of the prompts read in one `with` block only the "
                "newest keeps it: explain a selection before the next prompt is read."
            )
        places = self.suppressing[sample].nonzero().T
        if not places.numel():
            return [-1] * len(tokens)
        alone = places.new_tensor([sample])
        key = packed_key(self.debiased, self.suppressing)[alone, places]
        known = self.graph.known(Pick(places, alone))
        found: list[int] = []
        for first in range(0, len(tokens), block):
            rows = places.new_tensor([tokens[first : first + block]])
            near = self.graph.joins(self.graph.known(Pick(rows, alone)), known)
            near = near & self.present[alone[:, None], rows][..., None]
            best = key[:, None].masked_fill(~near, NEVER).max(-1)
            found += places[0, best.indices[0]].masked_fill(best.values[0] == NEVER, -1).tolist()
        return found


FAULTS = ("dropped what was kept before", "kept padding", "kept more than there was room for")


def refuse_faults(steps: Sequence[str], found: Sequence[bool]) -> None:
    """Refuses what no selector may do.

    Args:
        steps: The selectors.
        found: For each in turn whether it did each of the `FAULTS`.

    Raises:
        TokenError: One did.
    """
    for step, start in zip(steps, range(0, len(found), len(FAULTS)), strict=True):
        did = [fault for fault, done in zip(FAULTS, found[start : start + len(FAULTS)], strict=True) if done]
        if did:
            raise TokenError(
                f"The select stage {step!r} {', and '.join(did)}; "
                "a selector may only add present tokens, as many as there is room for."
            )
