"""Pipelines: a value that selects, refuses stages that break the rules, and can say why."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.testing import token_sets

PLAIN = {"importance": "feature_norm", "select": "top_k"}


def made(**blocks):
    return pk.Pipeline.validated({**PLAIN, **blocks}, pk.installed(), "a test")


def line(scores, features=None):
    """Tokens on one row with these norms, hence scores."""
    values = torch.tensor(scores)[None, :, None] if features is None else torch.tensor(features)[None]
    return pk.TokenBatch.grid(values, 1, values.shape[1])


def test_the_best_are_kept():
    selection = made(budget=2)(line([1.0, 5.0, 3.0, 4.0]))
    assert selection.indices.tolist() == [[1, 3]]
    assert selection.kept_by.tolist() == [[-1, 0, -1, 0]]
    assert selection.steps == ("top_k", "rest")


def test_biases_are_taken_away_in_turn():
    tokens = pk.TokenBatch.grid(torch.ones(1, 4, 1), 1, 4, {pk.PaddedShare(): torch.tensor([[1.0, 0, 0, 0]])})
    selection = made(bias=[{"use": "exponential", "rate": 0.5}, "padding"], budget=2)(tokens)
    torch.testing.assert_close(selection.debiased, torch.tensor([[0.0, 0.60653, 0.36788, 0.22313]]))
    assert selection.scores.tolist() == [[1, 1, 1, 1]]
    assert selection.indices.tolist() == [[1, 2]]


def test_one_thing_or_a_list_of_it():
    assert made(select="top_k") == made(select=["top_k"]) == made(select=[{"use": "top_k", "share": 1.0}])
    assert made(bias="exponential") == made(bias=[{"use": "exponential"}])
    assert made(bias=None) == made(bias=[]) == made()
    assert made(cites="arXiv:1") == made(cites=["arXiv:1"])


def test_needs_are_those_of_all_stages():
    assert pk.load("d2pruner").needs == {pk.TextAttention()}
    assert made(importance={"use": "text_attention", "query": "mean"}, bias="padding").needs == {
        pk.TextAttention(query="mean"),
        pk.PaddedShare(),
    }
    assert made().needs == frozenset()


def test_swap_is_a_new_value():
    fastv = pk.load("fastv")
    changed = fastv.swap(budget=64, select=["mis", "top_k"], graph={"use": "cosine", "above": 0.9})
    assert fastv == pk.load("fastv")
    assert (changed.budget, changed.graph.above, len(changed.select)) == (64, 0.9, 2)
    assert changed.swap(graph=None).graph is None
    assert hash(fastv) == hash(pk.load("fastv"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"select": ["mos"]}, "no select stage 'mos'. Did you mean 'mis'"),
        ({"select": []}, "name at least one selector"),
        ({"select": None}, "name at least one selector"),
        ({"graph": {"use": "cosine", "abov": 0.5}}, "there is no such field here. Did you mean 'above'"),
        ({"graph": {"use": "cosine", "above": 2}}, "graph.above"),
        ({"graph": {"use": "cosine", "above": "0.5"}}, "graph.above"),
        ({"graph": {"use": "cosine", "above": float("nan")}}, "graph.above"),
        ({"graph": "mis"}, "no graph stage 'mis'"),
        ({"graph": 3}, "graph: write a name, or a mapping"),
        ({"graph": {"above": 0.5}}, "`use` must name a stage"),
        ({"importance": None}, "importance"),
        ({"at": {"layer": -1}}, "at.layer"),
        ({"at": {"layer": True}}, "at.layer"),
        ({"at": 2}, "at"),
        ({"positions": "moved"}, "positions"),
        ({"bugdet": 3}, "there is no such field here. Did you mean 'budget'"),
        ({"name": 3}, "name"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(changes, message):
    with pytest.raises(pk.ConfigError, match=message.replace("(", r"\(")):
        pk.load("fastv").swap(**changes)


def test_all_mistakes_are_said_at_once():
    with pytest.raises(pk.ConfigError) as caught:
        pk.load("fastv").swap(budget=0, graph="cosin", positions="moved")
    assert all(word in str(caught.value) for word in ("budget", "cosin", "positions"))


class Faulty(pk.Selector):
    """Breaks the rule that its field names."""

    use: Literal["faulty"] = "faulty"
    fault: str

    def __call__(self, candidates, kept, room):
        present = candidates.tokens.present
        match self.fault:
            case "padding":
                return kept | ~present
            case "crowded":
                return present
            case "lost":
                return torch.zeros_like(kept)
            case "shape":
                return kept[:, :1]
            case _:
                return kept.long()


@pytest.mark.parametrize(
    "fault, message",
    [
        ("padding", "'faulty' kept padding"),
        ("crowded", "kept more than there was room for; a selector may only add"),
        ("lost", "dropped what was kept before"),
        ("shape", r"must give a bool mask \(batch, tokens\) = \(1, 5\) on cpu; it gave torch.bool \(1, 1\)"),
        ("dtype", r"it gave torch.int64 \(1, 5\)"),
    ],
)
def test_selectors_that_break_the_rules_are_caught(fault, message):
    tokens = line([1.0, 2.0, 3.0, 4.0, 5.0])
    padded = pk.TokenBatch(tokens.features, tokens.positions, tokens.features[..., 0] != 2)
    first = pk.installed().stage("select", "top_k")(share=0.5)
    with pytest.raises(pk.TokenError, match=message):
        made(budget=2, select=[first, Faulty(fault=fault)])(padded)


class Odd(pk.ImportanceScorer):
    """Gives scores of another shape or dtype."""

    use: Literal["odd"] = "odd"
    whole: bool

    def __call__(self, tokens):
        return tokens.positions[..., 0] if self.whole else torch.zeros(1, 1)


@pytest.mark.parametrize("whole", [True, False])
def test_scores_that_do_not_fit_are_caught(whole):
    with pytest.raises(
        pk.TokenError, match=r"importance stage 'odd' must give float scores .* \(1, 3\); it gave"
    ):
        made(importance=Odd(whole=whole))(line([1.0, 2.0, 3.0]))


def test_a_missing_signal_names_what_is_missing():
    with pytest.raises(pk.UnknownName, match="no TextAttention"):
        pk.load("fastv")(line([1.0, 2.0]))


@settings(max_examples=100)
@given(token_sets(), st.one_of(st.integers(1, 20), st.floats(0.01, 1.0)))
def test_every_token_is_explained(tokens, budget):
    """A kept token by its step; a dropped one by the kept look-alike, or by its score."""
    pipeline = made(budget=budget, graph={"use": "cosine", "above": 0.7}, select=["mis", "fill"])
    selection = pipeline(tokens)
    edges = selection.graph.to_dense()
    for sample, token in tokens.present.nonzero().tolist():
        why = selection.explain(sample, token)
        assert (why.kept_by is not None) == bool(selection.kept[sample, token])
        assert why.kept_by is None or why.suppressed_by is None
        by_mis = (selection.kept_by[sample] == 0) & edges[sample, token]
        if why.kept_by is None and by_mis.any():
            assert by_mis[why.suppressed_by]
        else:
            assert why.suppressed_by is None


def test_a_suppressor_without_a_score_is_still_named():
    """NaN scores are kept where nothing better is; they suppress all the same."""
    tokens = line(None, features=[[0.0, 1.0], [torch.nan, 0.0], [1.0, 0.0]])

    class Blind(pk.ImportanceScorer):
        use: Literal["blind"] = "blind"

        def __call__(self, tokens):
            return torch.full(tokens.present.shape, torch.nan)

    always = {"use": "grid", "falloff": "radius"}
    selection = made(importance=Blind(), graph=always, select="mis", budget=2)(tokens)
    assert selection.indices.tolist() == [[0, 2]]
    assert selection.explain(0, 1).suppressed_by in {0, 2}
    far = made(importance=Blind(), graph=always, select="mis", budget=1)(line([1.0] * 4))
    assert far.explain(0, 3).suppressed_by is None


@pytest.mark.parametrize("sample, token", [(0, 3), (1, 0), (-1, 0), (0, -1)])
def test_a_token_that_is_not_there_is_not_explained(sample, token):
    with pytest.raises(pk.TokenError, match="There is no token"):
        made()(line([1.0, 2.0, 3.0])).explain(sample, token)


def test_stages_bind_at_any_depth(tmp_path, prior_file):
    (tmp_path / "prior-layer2.safetensors").write_bytes(prior_file.read_bytes())
    site = pk.Site(str(tmp_path), 2)
    bound = pk.load("d2pruner").bind(site)
    assert bound.bias[0].prior == str(tmp_path / "prior-layer2.safetensors")
    assert bound.graph == pk.load("d2pruner").graph
    assert pk.load("fastv").bind(site) == pk.load("fastv")


class Failing(pk.ImportanceScorer):
    """Raises what is none of prunekit's errors."""

    use: Literal["failing"] = "failing"

    def __call__(self, tokens):
        raise RuntimeError("out of luck")


class Silent(pk.Selector):
    """Gives nothing."""

    use: Literal["silent"] = "silent"

    def __call__(self, candidates, kept, room):
        return None


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"importance": Failing()}, "'failing' failed: RuntimeError: out of luck"),
     ({"select": Silent()}, "'silent' must give a Tensor or a Growth; it gave a NoneType")],
)  # fmt: skip
def test_a_failing_stage_is_named(changes, told):
    tokens = pk.TokenBatch.grid(torch.ones(1, 9, 2), 3, 3)
    with pytest.raises(pk.PluginError, match=told):
        pk.load("random").swap(**changes)(tokens)


def test_models_are_looked_at_before_priors():
    with pytest.raises(pk.UnsupportedModel):
        pk.load("d2pruner").attach(torch.nn.Linear(1, 1))


class Summed(pk.Merger):
    """Each kept token becomes the sum of those up to the next kept one; broken as its field says."""

    use: Literal["summed"] = "summed"
    fault: str = ""
    step: str = ""

    @property
    def after(self):
        return frozenset({self.step} - {""})

    def __call__(self, tokens, selection):
        match self.fault:
            case "kind":
                return [tokens]
            case "shape":
                return tokens.features[:, :1]
            case "dtype":
                return tokens.features.long()
            case "raises":
                raise RuntimeError("no")
        owner = selection.kept.cumsum(-1)
        member = (owner[:, :, None] == owner[:, None]).float()
        return torch.where(selection.kept[..., None], member @ tokens.features, tokens.features)


def test_what_is_dropped_is_merged_into_what_is_kept():
    tokens = line([5.0, 1.0, 2.0, 4.0, 3.0])
    pipeline = made(budget=2, merge=Summed())
    selection = pipeline(tokens)
    assert selection.indices.tolist() == [[0, 3]]
    assert selection.merged[0, :, 0].tolist() == [8, 1, 2, 7, 3]
    assert made(budget=2)(tokens).merged is None
    assert selection.without_graph().merged is None
    assert pipeline.parts[-1] == Summed()


def test_a_selection_made_anew_is_merged_anew():
    """The device form runs out of candidates it looks at; settled, other tokens are kept and merged."""
    features = torch.eye(8).repeat_interleave(512, 0)[None]
    scores = torch.arange(4096.0, 0, -1).expand(1, 1, -1)
    tokens = pk.TokenBatch.grid(features, 64, 64, signals={pk.TextAttention(): scores})
    pipeline = pk.load("fastv").swap(graph="cosine", select=["mis"], budget=8, merge=Summed())
    device = pipeline(tokens, engine="device")
    assert not device.exact.all()
    settled, host = device.settled(), pipeline(tokens)
    assert torch.equal(settled.merged, host.merged)
    assert not torch.equal(device.merged, host.merged)


@pytest.mark.parametrize(
    "fault, message",
    [
        ("kind", "The merge stage 'summed' must give a Tensor; it gave a list"),
        ("shape", r"must give float features \(batch, tokens, dim\) = \(1, 2, 1\); it gave torch.float32"),
        ("dtype", "it gave torch.int64"),
        ("raises", "The merge stage 'summed' failed: RuntimeError: no"),
    ],
)
def test_mergers_that_break_the_rules_are_caught(fault, message):
    with pytest.raises(pk.PrunekitError, match=message):
        made(budget=1, merge=Summed(fault=fault))(line([1.0, 2.0]))


def test_a_merger_after_a_step_there_is_not():
    with pytest.raises(pk.ConfigError, match=r"merge: there is no selector 'top' to merge after.*'top_k'"):
        made(merge=Summed(step="top"))
    merging = made(merge=Summed(step="top_k"))
    with pytest.raises(pk.ConfigError, match="no selector 'top_k' to merge after"):
        merging.swap(select="mis")
    assert made(merge=Summed(step="rest")).merge.after == {"rest"}


def test_the_tokens_that_steps_kept():
    selection = made(budget=3, select=[{"use": "top_k", "share": 0.4}])(line([1.0, 5.0, 3.0, 4.0]))
    assert selection.by(["top_k"]).tolist() == [[False, True, False, False]]
    assert selection.by(["rest"]).tolist() == [[False, False, True, True]]
    assert torch.equal(selection.by(["rest", "top_k"]), selection.kept)
    assert torch.equal(selection.by([]), selection.kept)
    with pytest.raises(pk.UnknownName, match=r"No step 'top' kept any token\. Did you mean 'top_k'"):
        selection.by(["top"])
