"""Each law can fail: for each a stage that breaks it, and only has to be tried."""

import dataclasses
from typing import Literal

import pytest
import torch

import prunekit as pk
from prunekit import Signal
from prunekit.blocks import Override
from prunekit.kernels.known import Pick
from prunekit.kernels.ranking import best
from prunekit.testing import LAWS, conformance, holds
from prunekit.testing.laws import keeps_the_sum, keeps_within_reach


class Scorer(pk.ImportanceScorer):
    """Scores tokens by column; broken in the way `fault` says."""

    use: Literal["scorer"] = "scorer"
    fault: str = ""

    def __call__(self, tokens):  # noqa: PLR0911
        scores = tokens.positions[..., 2].masked_fill(~tokens.present, 0).float()
        match self.fault:
            case "gives_finite_scores":
                return scores / (tokens.positions[..., 1] > 0)
            case "same_twice":
                return scores + torch.rand(scores.shape)
            case "leaves_its_input_alone":
                tokens.features.mul_(0.5)
            case "treats_samples_alone":
                return scores / (1 + scores.sum())
            case "ignores_padding":
                return scores + tokens.present.shape[-1]
            case "takes_half_precision":
                return scores.to(tokens.features.dtype)
            case "follows_the_tokens":
                return scores + tokens.present.cumsum(-1)
        return scores


class Estimator(pk.BiasEstimator):
    """Weighs tokens by row; broken in the way `fault` says."""

    use: Literal["estimator"] = "estimator"
    fault: str = ""

    def __call__(self, tokens):
        rows = tokens.positions[..., 1].masked_fill(~tokens.present, 0).float()
        if self.fault == "gives_a_finite_bias":
            return pk.Bias(rows, "ratio", epsilon=0.0)
        return pk.Bias(1 + rows)


class Halved(pk.Graph):
    """A graph given as a matrix whose blocks say something else."""

    def __init__(self, tokens, edges):
        object.__setattr__(self, "present", tokens.present)
        object.__setattr__(self, "edges", edges)

    def known(self, pick):
        places = torch.arange(self.present.shape[1]).expand(self.present.shape)
        samples = torch.arange(self.present.shape[0])[:, None].expand(self.present.shape)
        return pick(samples), pick(places)

    def joins(self, rows, columns):
        return self.edges[rows[0][:, :, None], rows[1][:, :, None], columns[1][:, None]]


class Loose(Halved):
    """A graph that does not let the base class take loops and padding out."""

    def adjacent(self, rows, columns):
        return self.joins(self.known(Pick(rows)), self.known(Pick(columns)))


class OneSided(Halved):
    """A graph whose blocks of one row are empty."""

    def joins(self, rows, columns):
        return super().joins(rows, columns) & (rows[1].shape[-1] > 1)


class Boastful(Halved):
    """A graph that says its edges reach less far than they do."""

    reach = 0


class Denying(Halved):
    """A graph whose matrix is empty, whatever it joins."""

    def adjacent(self, rows, columns):
        return super().adjacent(rows, columns) & False


class Forgetful(Halved):
    """A graph that loses its edges when stored."""

    def to_csr(self, block=256):
        return pk.AnyOf(self.present, [pk.NoEdges(self.present)]).to_csr(block)


class Builder(pk.GraphBuilder):
    """Joins tokens of one row; broken in the way `fault` says."""

    use: Literal["builder"] = "builder"
    fault: str = ""

    def __call__(self, tokens):  # noqa: PLR0911
        rows = tokens.positions[..., 1]
        edges = rows[:, :, None] == rows[:, None]
        both = tokens.present[:, :, None] & tokens.present[:, None]
        loops = torch.eye(rows.shape[-1], dtype=torch.bool)
        match self.fault:
            case "is_symmetric":
                return Halved(tokens, edges.triu())
            case "has_no_loops":
                return Loose(tokens, (edges | loops) & both)
            case "has_no_edge_to_padding":
                return Loose(tokens, (edges | ~both) & ~loops)
            case "answers_any_block":
                return OneSided(tokens, edges)
            case "keeps_within_reach":
                return Boastful(tokens, edges)
            case "is_walked_like_its_matrix":
                return Denying(tokens, edges)
            case "stores_the_same":
                return Forgetful(tokens, edges)
            case "gives_similarities":
                halved = Halved(tokens, edges)
                return pk.ImplicitGraph(
                    tokens.present, halved.known, lambda r, c: 2.0 * halved.joins(r, c), 1.0
                )
        return Halved(tokens, edges)


class Chooser(pk.Selector):
    """Keeps the best by score; broken in the way `fault` says."""

    use: Literal["chooser"] = "chooser"
    fault: str = ""

    def __call__(self, candidates, kept, room):  # noqa: PLR0911
        scores, free = candidates.scores, candidates.tokens.present & ~kept
        match self.fault:
            case "only_adds":
                return best(scores, candidates.tokens.present, room)
            case "stays_within_room":
                return kept | free
            case "uses_all_room":
                return kept | best(scores, free, room // 2)
            case "is_nested":
                return kept | best(scores * (-1) ** room[:, None], free, room)
            case "breaks_ties_by_index":
                return kept | best(scores.flip(-1), free.flip(-1), room).flip(-1)
            case "ranks_nan_last":
                return kept | best(scores.nan_to_num(9.0), free, room)
        return kept | best(scores, free, room)


class Blender(pk.Merger):
    """Adds the dropped to each kept token; broken in the way `fault` says."""

    use: Literal["blender"] = "blender"
    fault: str = ""

    def __call__(self, tokens, selection):
        kept = selection.kept[..., None]
        features = tokens.features.float()
        left = features.masked_fill(kept | ~tokens.present[..., None], 0).sum(1, keepdim=True)
        match self.fault:
            case "gives_finite_features":
                return torch.where(kept, features + left / left, features)
            case "leaves_the_rest_alone":
                return torch.where(kept, features + left, 0)
            case "changes_nothing_where_all_is_kept":
                return torch.where(kept, 2 * features + left, features)
        return torch.where(kept, features + left, features)


class Sloppy(pk.Pipeline, frozen=True):
    """A pipeline; broken in the way its name says."""

    def __call__(self, tokens, engine=None):
        selection = super().__call__(tokens, engine)
        if self.name == "keeps_the_exact_count":
            return dataclasses.replace(selection, kept=tokens.present)
        if self.name == "says_who_kept":
            return dataclasses.replace(selection, kept_by=torch.zeros_like(selection.kept_by))
        return selection


SOUND = {
    "importance": Scorer,
    "bias": Estimator,
    "graph": Builder,
    "select": Chooser,
    "merge": Blender,
}
SHARED = set(LAWS["importance"]) & set(LAWS["select"])
"""The laws of all kinds: the scorer shows that they can fail."""

BROKEN = [
    (SOUND[kind], law) for kind in SOUND for law in LAWS[kind] if kind == "importance" or law not in SHARED
]


@pytest.mark.parametrize("stage", SOUND.values(), ids=SOUND)
def test_a_sound_stage_keeps_all_laws(stage):
    conformance(stage())


@pytest.mark.parametrize("stage, law", BROKEN, ids=lambda thing: thing.__name__)
def test_each_law_is_broken_by_some_stage(stage, law):
    with pytest.raises(AssertionError, match=f"{stage.kind} stage '{stage().use}'"):
        holds(law, stage(fault=law.__name__))


PLACES = tuple(Override(at=pk.At(layer=layer), budget=budget) for layer, budget in ((2, 0.9), (5, 3)))


@pytest.mark.parametrize("places", [(), PLACES], ids=["one place", "two places"])
@pytest.mark.parametrize("law", [law for law in LAWS["pipeline"] if law not in SHARED])
def test_each_law_of_pipelines_is_broken_by_some_pipeline(law, places):
    blocks = {"importance": Scorer(), "select": [Chooser()], "stages": places}
    conformance(Sloppy(**blocks), examples=10)
    with pytest.raises(AssertionError, match="The pipeline"):
        holds(law, Sloppy(name=law.__name__, **blocks))


def test_a_law_may_be_exempted_with_a_reason():
    conformance(Chooser(fault="uses_all_room"), exempt={"uses_all_room": "it takes half on purpose"})


def test_an_exemption_goes_when_the_law_holds():
    with pytest.raises(AssertionError, match=r"'is_nested' holds, though.*remove the exemption"):
        conformance(Chooser(), exempt={"is_nested": "so I thought"})


def test_an_exemption_needs_a_reason():
    with pytest.raises(pk.ConfigError, match="Say why"):
        conformance(Chooser(), exempt={"is_nested": " "})


def test_an_exemption_is_of_a_law():
    with pytest.raises(pk.UnknownName, match=r"no law 'is_nestled' for select. Did you mean 'is_nested'"):
        conformance(Chooser(), exempt={"is_nestled": "a slip"})


class Shy(Signal):
    """A signal prunekit has never heard of."""


class Listener(pk.ImportanceScorer):
    """Scores by a signal of its own."""

    use: Literal["listener"] = "listener"

    @property
    def needs(self):
        return frozenset({Shy()})

    def __call__(self, tokens):
        return tokens.signal(Shy()).float()


def test_a_sum_is_held_to_its_word():
    with pytest.raises(AssertionError, match="features added up to"):
        holds(keeps_the_sum, Blender())


def test_signals_of_strangers_are_made_up():
    conformance(Listener())


class Bounded(pk.GraphBuilder):
    """As alike as 0.9 within some cells, and a bound that is wrong in the way `fault` says."""

    use: Literal["bounded"] = "bounded"
    fault: str = ""

    def __call__(self, tokens):
        cells = tokens.positions[..., 1:].float()
        plane = tokens.positions[..., :1].float()
        wide = 8 if self.fault == "far" else 2

        def rule(rows, columns):
            near = torch.cdist(rows[1], columns[1], p=torch.inf) <= wide
            return 0.9 * (near & (torch.cdist(rows[0], columns[0]) == 0))

        def bound(level):
            return {"level": wide if level <= 0.5 else 0, "far": wide - 1, "odd": 1.5}.get(self.fault, wide)

        return pk.ImplicitGraph(tokens.present, lambda pick: (pick(plane), pick(cells)), rule, 0.5, bound)


def test_a_true_bound_is_kept():
    holds(keeps_within_reach, Bounded())


@pytest.mark.parametrize("fault", ["level", "far"])
def test_a_bound_is_held_to_its_word_at_every_level_and_far_away(fault):
    with pytest.raises(AssertionError, match="beyond its reach"):
        holds(keeps_within_reach, Bounded(fault=fault))


def test_a_bound_is_a_number_of_cells():
    with pytest.raises(pk.PluginError, match="must be None or a whole number of cells"):
        holds(keeps_within_reach, Bounded(fault="odd"))
