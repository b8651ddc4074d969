"""The laws of stages: one function a law, which raises AssertionError where it is broken.

A law takes a stage and a case: tokens for scorers, bias estimators, graph builders and whole pipelines, a
`Choice` for selectors, a `Merge` for mergers. Laws can be called on their own, on any case; `conformance`
calls all of a kind on many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunekit.budget import room_for
from prunekit.graph import Graph, everywhere
from prunekit.kernels.mis import greedy_mis
from prunekit.kernels.ranking import packed_key
from prunekit.pipeline import Pipeline
from prunekit.stages import BiasEstimator, GraphBuilder, ImportanceScorer, Merger, Selector, Stage
from prunekit.testing.strategies import Choice, Merge
from prunekit.tokens import Bias, Growth, Kept, Scores, TokenBatch

LEVELS = (0.0, 0.3, 0.6, 0.9)
"""Levels of similarity at which a graph's reach is tried."""

Subject: TypeAlias = Stage | Pipeline
Case: TypeAlias = TokenBatch | Choice | Merge
Law: TypeAlias = Callable[[Any, Any], None]

# --- of every kind ----------------------------------------------------------------------------------------


def same_twice(stage: Subject, case: Case) -> None:
    """The same arguments give the same outcome."""
    _agree(f"{_title(stage)}: called twice", _outcome(stage, case), _outcome(stage, case), case)


def leaves_its_input_alone(stage: Subject, case: Case) -> None:
    """No tensor of the arguments is modified."""
    before = [tensor.clone() for tensor in _tensors(case)]
    _outcome(stage, case)
    for old, new in zip(before, _tensors(case), strict=True):
        untouched = torch.equal(old.nan_to_num(0.123), new.nan_to_num(0.123))
        assert untouched, f"{_title(stage)} modified an argument: it was {old} and is {new}."


def treats_samples_alone(stage: Subject, case: Case) -> None:
    """A batch is its samples one by one."""
    together = _outcome(stage, case)
    for sample in range(len(together)):
        alone = _sample(case, sample)
        _agree(
            f"{_title(stage)}: sample {sample} in the batch and on its own",
            together[sample : sample + 1],
            _outcome(stage, alone),
            alone,
        )


def ignores_padding(stage: Subject, case: Case) -> None:
    """Padding changes nothing: not how much, not where, not what it holds."""
    present = _tokens(case).present
    everyone = everywhere(present)
    new = everyone.new_full((len(everyone), 1), -1)
    packed = (~present).long().argsort(dim=-1, stable=True)
    packed = packed.masked_fill(~present.gather(-1, packed), -1)
    for what, order in {
        "padding in front and behind": torch.cat([new, everyone, new, new], -1),
        "padding between all tokens": torch.stack([everyone, new.expand_as(everyone)], -1).flatten(1),
        "all padding moved to the end": packed,
    }.items():
        _agree(
            f"{_title(stage)}: as given and with {what}",
            _laid_out_outcome(_outcome(stage, case), order, rows=isinstance(case, Merge)),
            _outcome(stage, _laid_out(case, order)),
            _laid_out(case, order),
        )


def follows_the_tokens(stage: Subject, case: Case) -> None:
    """Tokens in another order give the same outcome in that order; selectors get distinct scores."""
    if isinstance(case, Choice):
        ranks = case.scores.nan_to_num().argsort(dim=-1, stable=True).argsort(dim=-1)
        case = dataclasses.replace(case, scores=ranks.float())
    everyone = everywhere(_tokens(case).present)
    shuffled = torch.randperm(everyone.shape[-1], generator=torch.Generator().manual_seed(0))
    for what, order in {
        "reversed": everyone.flip(-1),
        "shuffled": shuffled.expand_as(everyone),
    }.items():
        _agree(
            f"{_title(stage)}: tokens in order and {what}",
            _laid_out_outcome(_outcome(stage, case), order, rows=isinstance(case, Merge)),
            _outcome(stage, _laid_out(case, order)),
            _laid_out(case, order),
        )


def takes_half_precision(stage: Subject, case: Case) -> None:
    """float16 and bfloat16 give what the same values in float32 give."""
    for dtype in (torch.float16, torch.bfloat16):
        half = _cast(case, dtype)
        outcome = _outcome(stage, half)
        if outcome.dtype.is_floating_point:
            assert outcome.dtype in {torch.float32, torch.float64}, (
                f"{_title(stage)} gave {outcome.dtype} for {dtype} tokens; compute and answer in float32."
            )
        _agree(f"{_title(stage)}: in {dtype} and the same values in float32",
               outcome, _outcome(stage, _cast(half, torch.float32)), half)  # fmt: skip


# --- of importance scorers and bias estimators ------------------------------------------------------------


def gives_finite_scores(stage: ImportanceScorer, tokens: TokenBatch) -> None:
    """Float scores (batch, tokens), finite for tokens whose sample holds nothing infinite or NaN."""
    _fits(stage, stage(tokens), tokens)


def gives_a_finite_bias(stage: BiasEstimator, tokens: TokenBatch) -> None:
    """Float values (batch, tokens), finite for finite tokens; scores freed of it are so too, and float32."""
    bias = stage(tokens)
    _fits(stage, bias.values, tokens)
    for dtype in (torch.float32, torch.float16):
        scores = torch.full(tokens.present.shape, 0.5, dtype=dtype)
        freed = bias.remove(scores)
        _fits(stage, freed, tokens)
        assert freed.dtype in {torch.float32, torch.float64}, (
            f"{_title(stage)}: {dtype} scores freed of the bias are {freed.dtype}; they must be float32."
        )


def _fits(stage: Stage, values: Tensor, tokens: TokenBatch) -> None:
    expected = tuple(tokens.present.shape)
    assert tuple(values.shape) == expected and values.dtype.is_floating_point, (
        f"{_title(stage)} must give floats (batch, tokens) = {expected}; "
        f"it gave {values.dtype} {tuple(values.shape)}."
    )
    here = tokens.present & _sound(tokens)[:, None]
    assert bool(values[here].isfinite().all()), (
        f"{_title(stage)} must give finite values for finite tokens; it gave {values} "
        f"for {tokens.features} (present: {tokens.present})."
    )


# --- of graph builders ------------------------------------------------------------------------------------


def is_symmetric(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """An edge goes both ways."""
    dense = stage(tokens).to_dense()
    assert torch.equal(dense, dense.mT), f"{_title(stage)}: not symmetric: {_edges(dense ^ dense.mT)}."


def has_no_loops(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """No token is adjacent to itself."""
    loops = stage(tokens).to_dense().diagonal(dim1=-2, dim2=-1)
    assert not bool(loops.any()), (
        f"{_title(stage)}: tokens adjacent to themselves: {loops.nonzero().tolist()}."
    )


def has_no_edge_to_padding(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """No edge ends at padding."""
    touched = stage(tokens).to_dense().any(1) & ~tokens.present
    assert not bool(touched.any()), f"{_title(stage)}: edges to padding at {touched.nonzero().tolist()}."


def answers_any_block(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """Any block of rows and columns, in any order and repeated, is that part of the whole matrix."""
    graph = stage(tokens)
    everyone = everywhere(tokens.present)
    count = everyone.shape[-1]
    odd, flipped = everyone[:, 1::2], everyone.flip(-1)
    blocks = [(odd, flipped), (flipped, odd), (everyone[:, :1], everyone), (everyone[:, :0], everyone)]
    if count:
        blocks.append((everyone[:, [0, count - 1, 0]], everyone[:, [count // 2, count // 2]]))
    for rows, columns in blocks:
        for what, whole, part in (
            ("adjacency", graph.to_dense(), graph.adjacent(rows, columns)),
            ("similarity", _similarity(graph), graph.similarity(rows, columns)),
        ):
            samples = torch.arange(len(rows))[:, None, None]
            wanted = whole[samples, rows[:, :, None], columns[:, None]]
            both = tokens.present.gather(-1, rows)[:, :, None] & tokens.present.gather(-1, columns)[:, None]
            assert _same(wanted.float()[both], part.float()[both]), (
                f"{_title(stage)}: the {what} of rows {rows.tolist()} and columns {columns.tolist()} is "
                f"{part}; the whole matrix says {wanted}."
            )


def stores_the_same(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """`to_csr` has the edges of `to_dense`, and its similarity on them, whatever the block."""
    graph = stage(tokens)
    dense = graph.to_dense()
    for block in (1, 3, 256):
        stored = graph.to_csr(block)
        extra = stored.to_dense() ^ dense
        assert not bool(extra.any()), f"{_title(stage)}: to_csr and to_dense differ at {_edges(extra)}."
        assert _same(_similarity(graph)[dense], _similarity(stored)[dense]), (
            f"{_title(stage)}: to_csr changes similarities."
        )


def gives_similarities(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """The similarity of two present tokens is symmetric, finite, and in [0, 1]."""
    similarity = _similarity(stage(tokens))
    both = tokens.present[:, :, None] & tokens.present[:, None]
    held = similarity[both]
    assert bool(((held >= 0) & (held <= 1)).all()), f"{_title(stage)}: similarities outside [0, 1]: {held}."
    assert _same(held, similarity.mT[both]), f"{_title(stage)}: similarity is not symmetric: {similarity}."


def keeps_within_reach(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """No edge goes further than `reach`, and no pair alike above a level further than `within` says."""
    _keeps_within_reach(stage, tokens)
    if not stage.needs:
        # Made-up planes are small: on a strip of copies, reaches of many cells show.
        _keeps_within_reach(stage, TokenBatch.grid(torch.ones(1, 24, tokens.features.shape[-1]), 1, 24))


def _keeps_within_reach(stage: GraphBuilder, tokens: TokenBatch) -> None:
    graph = stage(tokens)
    apart = (tokens.positions[:, :, None] - tokens.positions[:, None]).abs()
    both = tokens.present[:, :, None] & tokens.present[:, None]
    pairs = {level: (graph.within(level), (_similarity(graph) > level) & both) for level in LEVELS}
    for what, (reach, joined) in {"any": (graph.reach, graph.to_dense()), **pairs}.items():
        if reach is not None:
            far = (apart[..., 0] > 0) | (apart[..., 1:].amax(-1) > reach)
            beyond = joined & far
            assert not bool(beyond.any()), (
                f"{_title(stage)}: pairs (above: {what}) beyond its reach of {reach} cells: {_edges(beyond)}."
            )


def is_walked_like_its_matrix(stage: GraphBuilder, tokens: TokenBatch) -> None:
    """The independent set is that of the whole matrix, in whichever way it is walked."""
    graph, dense = stage(tokens), stage(tokens).to_dense()
    scores = torch.rand(tokens.present.shape, generator=torch.Generator().manual_seed(0))
    key = packed_key(scores, tokens.present)
    for share in (0.3, 1.0):
        room = (tokens.counts * share).ceil().long()
        wanted = _independent(dense, scores, tokens.present, room)
        for engine in ("host", "device"):
            found, plan = greedy_mis(key, room, graph, positions=tokens.positions, engine=engine)
            wrong = (found.taken != wanted).any(-1) & found.exact
            assert engine == "device" or bool(found.exact.all()), f"{_title(stage)}: a host walk is exact."
            assert not bool(wrong.any()), (
                f"{_title(stage)}: the walk ({plan}) takes {found.taken}; "
                f"over the whole matrix it takes {wanted}."
            )


def _independent(
    dense: Bool[Tensor, "batch tokens tokens"], scores: Scores, present: Kept, room: Int[Tensor, " batch"]
) -> Kept:
    """The textbook: from the best token to the worst, take one unless a neighbour was taken."""
    taken = torch.zeros_like(present)
    for sample, order in enumerate(scores.argsort(dim=-1, descending=True).tolist()):
        for token in order:
            free = present[sample, token] and not (dense[sample, token] & taken[sample]).any()
            taken[sample, token] = free and taken[sample].sum() < room[sample]
    return taken


# --- of selectors -----------------------------------------------------------------------------------------


def only_adds(stage: Selector, choice: Choice) -> None:
    """What was kept stays kept, and only present tokens are added."""
    grown = _selected(stage, choice)
    assert not bool((choice.kept & ~grown).any()), f"{_title(stage)} dropped what was kept: {grown}."
    padding = grown & ~choice.tokens.present
    assert not bool(padding.any()), f"{_title(stage)} kept padding at {padding.nonzero().tolist()}."


def stays_within_room(stage: Selector, choice: Choice) -> None:
    """A selector adds at most as many tokens as there is room for."""
    added = _added(stage, choice)
    assert bool((added <= choice.room).all()), (
        f"{_title(stage)} added {added.tolist()} where there was room for {choice.room.tolist()}."
    )


def uses_all_room(stage: Selector, choice: Choice) -> None:
    """A selector adds exactly as many tokens as there is room for. Exempt what may run dry."""
    added = _added(stage, choice)
    assert torch.equal(added, choice.room), (
        f"{_title(stage)} added {added.tolist()} where there was room for {choice.room.tolist()}."
    )


def is_nested(stage: Selector, choice: Choice) -> None:
    """What is kept with less room is kept with more."""
    more = _selected(stage, choice)
    for room in (choice.room // 2, (choice.room - 1).clamp(min=0)):
        less = _selected(stage, dataclasses.replace(choice, room=room))
        assert not bool((less & ~more).any()), (
            f"{_title(stage)} keeps {less} with room {room.tolist()}, but {more} with {choice.room.tolist()}."
        )


def breaks_ties_by_index(stage: Selector, choice: Choice) -> None:
    """With one score for all and no edges, the first tokens are kept. Exempt what ignores scores."""
    equal = dataclasses.replace(
        choice, scores=torch.ones_like(choice.scores), edges=torch.zeros_like(choice.edges)
    )
    grown = _selected(stage, equal)
    free = choice.tokens.present & ~choice.kept
    added = grown & ~choice.kept
    first = free & (free.cumsum(-1) <= added.sum(-1, keepdim=True))
    assert torch.equal(added, first), (
        f"{_title(stage)}: ties must fall to the lowest index; of {free.nonzero().tolist()} "
        f"it kept {added.nonzero().tolist()}."
    )


def ranks_nan_last(stage: Selector, choice: Choice) -> None:
    """A token whose score is NaN is kept only when no other is left. Exempt what ignores scores."""
    free = choice.tokens.present & ~choice.kept
    places = torch.arange(free.shape[-1])
    spoilt = choice.scores.masked_fill((places % 3 == 0) | (places > places.flip(-1)), torch.nan)
    plain = dataclasses.replace(choice, scores=spoilt, edges=torch.zeros_like(choice.edges))
    added = _selected(stage, plain) & ~choice.kept
    took_nan = (added & spoilt.isnan()).any(-1)
    left_better = (free & ~added & ~spoilt.isnan()).any(-1)
    assert not bool((took_nan & left_better).any()), (
        f"{_title(stage)} preferred a NaN score: from the scores {spoilt} it kept {added}."
    )


# --- of mergers -------------------------------------------------------------------------------------------

FAR = 2.0**90
"""How much longer features are made, to see whether sums of them stay finite."""


def gives_finite_features(stage: Merger, case: Merge) -> None:
    """Features of the tokens' shape, finite for samples that hold nothing infinite or NaN, however long."""
    longer = dataclasses.replace(case.tokens, features=case.tokens.features * FAR)
    sound = _sound(case.tokens) & (case.scores.isfinite() | ~case.tokens.present).all(-1)
    for each in (case, dataclasses.replace(case, tokens=longer)):
        held = _merged(stage, each)[each.tokens.present & sound[:, None]]
        assert bool(held.isfinite().all()), (
            f"{_title(stage)} must give finite features for finite tokens; it gave {held}."
        )


def leaves_the_rest_alone(stage: Merger, case: Merge) -> None:
    """Only kept tokens change."""
    _unchanged(f"{_title(stage)}: tokens that are not kept", stage, case, case.kept_by < 0)


def changes_nothing_where_all_is_kept(stage: Merger, case: Merge) -> None:
    """With nothing dropped there is nothing to merge. Exempt what also gathers from kept tokens."""
    present = case.tokens.present
    whole = dataclasses.replace(case, kept_by=torch.where(present, case.kept_by.clamp(min=0), -1))
    _unchanged(f"{_title(stage)}: with every token kept, tokens", stage, whole, present)


def keeps_the_sum(stage: Merger, case: Merge) -> None:
    """Kept tokens add up to what all tokens did; not among `LAWS`, for only some mergers are sums."""
    sound = (case.tokens.features.isfinite().all(-1) | ~case.tokens.present).all(-1)
    before = case.tokens.features.masked_fill(~case.tokens.present[..., None], 0).sum(1)[sound]
    after = _merged(stage, case).masked_fill(~case.selection.kept[..., None], 0).sum(1)[sound]
    assert _same(before, after), f"{_title(stage)}: features added up to {before}, and now to {after}."


def _unchanged(what: str, stage: Merger, case: Merge, where: Bool[Tensor, "batch tokens"]) -> None:
    before, after = case.tokens.features[where], _merged(stage, case)[where]
    same = torch.equal(before.double().nan_to_num(0.123), after.double().nan_to_num(0.123))
    assert same, f"{what} must stay as they are: they were {before} and are {after}."


# --- of pipelines -----------------------------------------------------------------------------------------


def keeps_the_exact_count(pipeline: Pipeline, tokens: TokenBatch) -> None:
    """Each sample keeps as many present tokens as its budget says, whatever the budget.

    Of several places the smallest count is what is left.
    """
    for budget in (None, 1, 5, 10_000, 0.001, 0.5, 1.0):
        asked = pipeline if budget is None else _with_budget(pipeline, budget)
        selection = asked(tokens)
        budgets = [cut.budget for cut in asked.cuts]
        wanted = torch.stack([room_for(tokens.counts, each) for each in budgets]).amin(0)
        assert torch.equal(selection.counts, wanted), (
            f"{_title(pipeline)} with budget {', '.join(map(repr, budgets))} keeps "
            f"{selection.counts.tolist()} of {tokens.counts.tolist()}; it must keep {wanted.tolist()}."
        )
        padding = selection.kept & ~tokens.present
        assert not bool(padding.any()), f"{_title(pipeline)} kept padding: {padding.nonzero().tolist()}."


def _with_budget(pipeline: Pipeline, budget: int | float) -> Pipeline:
    """The pipeline with another budget, at every place where it prunes."""
    change = {"budget": budget}
    return pipeline.model_copy(
        update={**change, "stages": tuple(each.model_copy(update=change) for each in pipeline.stages)}
    )


def says_who_kept(pipeline: Pipeline, tokens: TokenBatch) -> None:
    """`kept_by` names a step for each kept token and none for the others; `indices` lists the kept."""
    selection = pipeline(tokens)
    assert torch.equal(selection.kept_by >= 0, selection.kept), (
        f"{_title(pipeline)}: kept_by {selection.kept_by} does not fit kept {selection.kept}."
    )
    assert bool((selection.kept_by < len(selection.steps)).all()), f"{_title(pipeline)}: a step without name."
    for sample, row in enumerate(selection.indices):
        listed, wanted = row[row >= 0].tolist(), selection.kept[sample].nonzero().flatten().tolist()
        assert listed == wanted, f"{_title(pipeline)}: indices {listed}, kept {wanted}."


EVERY: tuple[Law, ...] = (
    same_twice,
    leaves_its_input_alone,
    treats_samples_alone,
    ignores_padding,
    takes_half_precision,
)
"""The laws of stages of all kinds, and of pipelines."""

LAWS: Mapping[str, tuple[Law, ...]] = MappingProxyType(
    {
        "importance": (gives_finite_scores, *EVERY, follows_the_tokens),
        "bias": (gives_a_finite_bias, *EVERY, follows_the_tokens),
        "graph": (
            is_symmetric,
            has_no_loops,
            has_no_edge_to_padding,
            answers_any_block,
            stores_the_same,
            gives_similarities,
            keeps_within_reach,
            is_walked_like_its_matrix,
            *EVERY,
            follows_the_tokens,
        ),
        "select": (
            only_adds,
            stays_within_room,
            uses_all_room,
            is_nested,
            breaks_ties_by_index,
            ranks_nan_last,
            *EVERY,
            follows_the_tokens,
        ),
        "merge": (
            gives_finite_features,
            leaves_the_rest_alone,
            changes_nothing_where_all_is_kept,
            *EVERY,
            follows_the_tokens,
        ),
        "pipeline": (keeps_the_exact_count, says_who_kept, *EVERY),
    }
)
"""The laws by kind of stage, and those of a whole `pipeline`."""


def kind_of(subject: Subject) -> str:
    """The kind whose laws a stage, or a pipeline, has to keep."""
    return "pipeline" if isinstance(subject, Pipeline) else subject.kind


# --- what a stage says, as one tensor ---------------------------------------------------------------------


def _outcome(subject: Subject, case: Case) -> Tensor:
    """Scores, bias or kept mask: (batch, tokens); a matrix: (batch, tokens, tokens); or features."""
    if isinstance(case, Choice):
        assert isinstance(subject, Selector), f"A Choice is for a selector, not for {_title(subject)}."
        return _selected(subject, case)
    if isinstance(case, Merge):
        assert isinstance(subject, Merger), f"A Merge is for a merger, not for {_title(subject)}."
        return _merged(subject, case)
    if isinstance(subject, Pipeline):
        return subject(case).kept
    if isinstance(subject, (ImportanceScorer, BiasEstimator, GraphBuilder)):
        said: Scores | Bias | Graph = subject(case)
        if isinstance(said, Bias):
            return said.values
        return said.to_dense() if isinstance(said, Graph) else said
    raise AssertionError(f"{_title(subject)} has no laws for tokens.")


def _selected(stage: Selector, choice: Choice) -> Kept:
    given = stage(choice.candidates, choice.kept, choice.room)
    grown = given.kept if isinstance(given, Growth) else given
    expected = tuple(choice.kept.shape)
    assert grown.dtype == torch.bool and tuple(grown.shape) == expected, (
        f"{_title(stage)} must give a bool mask (batch, tokens) = {expected}; "
        f"it gave {grown.dtype} {tuple(grown.shape)}."
    )
    return grown


def _added(stage: Selector, choice: Choice) -> Int[Tensor, " batch"]:
    return (_selected(stage, choice) & ~choice.kept).sum(-1)


def _merged(stage: Merger, case: Merge) -> Float[Tensor, "batch tokens dim"]:
    given = stage(case.tokens, case.selection)
    expected = tuple(case.tokens.features.shape)
    assert given.dtype.is_floating_point and tuple(given.shape) == expected, (
        f"{_title(stage)} must give float features (batch, tokens, dim) = {expected}; "
        f"it gave {given.dtype} {tuple(given.shape)}."
    )
    return given


def _similarity(graph: Graph) -> Tensor:
    everyone = everywhere(graph.present)
    return graph.similarity(everyone, everyone)


# --- the same case, laid out otherwise --------------------------------------------------------------------


def _laid_out(case: Case, order: Int[Tensor, "batch places"]) -> Case:
    """The case with its tokens in another order; where `order` is -1, new padding full of garbage."""
    if isinstance(case, Merge):
        return Merge(
            _laid_out_tokens(case.tokens, order),
            _picked(case.scores, order, torch.nan),
            _picked(case.kept_by, order, -1),
            case.steps,
        )
    if isinstance(case, Choice):
        return Choice(
            _laid_out_tokens(case.tokens, order),
            _picked(case.scores, order, torch.nan),
            _laid_out_outcome(case.edges, order, filler=True),
            _picked(case.kept, order, False),
            case.room,
        )
    return _laid_out_tokens(case, order)


def _laid_out_tokens(tokens: TokenBatch, order: Int[Tensor, "batch places"]) -> TokenBatch:
    signals = {
        signal: _picked(value.movedim(-1, 1), order, torch.nan).movedim(1, -1) if signal.per_token else value
        for signal, value in tokens.signals.items()
    }
    return TokenBatch(
        _picked(tokens.features, order, torch.nan),
        _picked(tokens.positions, order, 77),
        _picked(tokens.present, order, False),
        MappingProxyType(signals),
    )


def _laid_out_outcome(
    outcome: Tensor, order: Int[Tensor, "batch places"], filler: bool = False, *, rows: bool = False
) -> Tensor:
    """The outcome in another order: of a matrix of tokens by tokens also the columns, but for `rows`."""
    moved = _picked(outcome, order, filler)
    return moved if rows or outcome.ndim == 2 else _picked(moved.mT, order, filler).mT


def _picked(values: Tensor, order: Int[Tensor, "batch places"], filler: float | bool) -> Tensor:
    """`values[b, order[b, p]]` along the second axis, `filler` where the order is -1."""
    if not values.shape[1]:
        return values.new_full((len(values), order.shape[-1], *values.shape[2:]), filler)
    taken = values[torch.arange(len(values))[:, None], order.clamp(min=0)]
    missing = (order < 0).reshape(*order.shape, *([1] * (values.ndim - 2)))
    return taken.masked_fill(missing, filler)


def _sample(case: Case, sample: int) -> Case:
    one = slice(sample, sample + 1)
    if isinstance(case, Merge):
        return Merge(_one_sample(case.tokens, one), case.scores[one], case.kept_by[one], case.steps)
    if isinstance(case, Choice):
        return Choice(
            _one_sample(case.tokens, one), case.scores[one], case.edges[one], case.kept[one], case.room[one]
        )
    return _one_sample(case, one)


def _one_sample(tokens: TokenBatch, one: slice) -> TokenBatch:
    signals = {signal: value[one] for signal, value in tokens.signals.items()}
    return TokenBatch(
        tokens.features[one], tokens.positions[one], tokens.present[one], MappingProxyType(signals)
    )


def _cast(case: Case, dtype: torch.dtype) -> Case:
    if isinstance(case, (Choice, Merge)):
        return dataclasses.replace(
            case, tokens=_cast_tokens(case.tokens, dtype), scores=case.scores.to(dtype)
        )
    return _cast_tokens(case, dtype)


def _cast_tokens(tokens: TokenBatch, dtype: torch.dtype) -> TokenBatch:
    signals = {signal: value.to(dtype) for signal, value in tokens.signals.items()}
    return TokenBatch(tokens.features.to(dtype), tokens.positions, tokens.present, MappingProxyType(signals))


# --- comparing --------------------------------------------------------------------------------------------


def _tokens(case: Case) -> TokenBatch:
    return case if isinstance(case, TokenBatch) else case.tokens


def _tensors(case: Case) -> list[Tensor]:
    tokens = _tokens(case)
    own = [tokens.features, tokens.positions, tokens.present, *tokens.signals.values()]
    if isinstance(case, Merge):
        return [*own, case.scores, case.kept_by]
    return [*own, case.scores, case.edges, case.kept, case.room] if isinstance(case, Choice) else own


def _sound(tokens: TokenBatch) -> Bool[Tensor, " batch"]:
    """The samples whose present tokens hold nothing infinite or NaN."""
    sound = tokens.features.isfinite().all(-1)
    for signal, value in tokens.signals.items():
        finite = value.isfinite()
        if not signal.per_token:
            finite = finite.flatten(1).all(1, keepdim=True)
        sound = sound & (finite if finite.ndim == 2 else finite.flatten(1, -2).all(1))
    return (sound | ~tokens.present).all(-1)


def _agree(what: str, one: Tensor, other: Tensor, case: Case) -> None:
    """Two outcomes for the tokens of `case` are the same where tokens are present."""
    present = _tokens(case).present
    rows = one.ndim == 2 or isinstance(case, Merge)
    here = present if rows else present[:, :, None] & present[:, None]
    assert one.shape == other.shape and _same(one[here], other[here]), (
        f"{what} must agree: {one} and {other}."
    )


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype == torch.bool:
        return torch.equal(one, other)
    return torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-7, equal_nan=True)


def _edges(dense: Bool[Tensor, "batch tokens tokens"]) -> list[list[int]]:
    """(sample, token, token) of each edge, for a message."""
    return dense.nonzero().tolist()


def _title(subject: Subject) -> str:
    if isinstance(subject, Pipeline):
        return f"The pipeline {subject.name!r}"
    return f"The {subject.kind} stage {subject.use!r}"
