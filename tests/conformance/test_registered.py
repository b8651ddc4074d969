"""Every registered stage and every shipped pipeline, held to the laws by the same line strangers use."""

from importlib.util import find_spec

import pytest

import prunekit as pk
from prunekit.testing import conformance

SCORES_ARE_IGNORED = "it does not look at scores"
MAY_RUN_DRY = "an independent set may run dry before the room is used"
FARTHEST = "scores matter for the first token alone, if at all; then the farthest is next"
LIKENESS_DECIDES = "between equal scores likeness decides"
TIES_IN_VALUE = "tokens that are worth as much are ties, which fall to the lowest index"
AROUND = "the neighbours of the best come with it"
OWN_QUOTA = "a part's quota is for its own tokens"

QUOTA = {"breaks_ties_by_index": OWN_QUOTA, "ranks_nan_last": OWN_QUOTA}
STEPS = {"breaks_ties_by_index": SCORES_ARE_IGNORED, "ranks_nan_last": SCORES_ARE_IGNORED}

FIELDS = {
    "all_of": {"of": ["cosine", {"use": "grid", "falloff": "radius"}]},
    "any_of": {"of": ["cosine", "grid"]},
    "blend": {"semantic": "cosine", "spatial": "grid"},
    "in_turn": {"of": ["nearest", {"use": "neighbours", "into": ["best"], "by": "keys"}]},
    "in_context": {"of": "vision_attention"},
}
"""What stages that cannot be made without it are given."""

GATHERS = "it gathers from kept tokens too"

EXEMPT = {
    "bipartite": {
        "breaks_ties_by_index": SCORES_ARE_IGNORED,
        "ranks_nan_last": SCORES_ARE_IGNORED,
    },
    "density_peaks": {
        "breaks_ties_by_index": LIKENESS_DECIDES,
        "ranks_nan_last": "those it chooses from may be all that are left, and then density decides",
        "is_nested": "with more room density is about more neighbours",
        "follows_the_tokens": TIES_IN_VALUE,
    },
    "anchors": {"uses_all_room": "it leaves room on purpose", "breaks_ties_by_index": AROUND},
    "coverage": {"breaks_ties_by_index": LIKENESS_DECIDES, "follows_the_tokens": TIES_IN_VALUE},
    "deduplicate": {
        "breaks_ties_by_index": LIKENESS_DECIDES,
        "ranks_nan_last": LIKENESS_DECIDES,
    },
    "dpp": {"breaks_ties_by_index": LIKENESS_DECIDES},
    "fade": {"follows_the_tokens": TIES_IN_VALUE},
    "max_min": {
        "breaks_ties_by_index": FARTHEST,
        "ranks_nan_last": FARTHEST,
        "follows_the_tokens": TIES_IN_VALUE,
    },
    "in_turn": {"changes_nothing_where_all_is_kept": GATHERS, "follows_the_tokens": TIES_IN_VALUE},
    "mis": {"uses_all_room": MAY_RUN_DRY},
    "mmr": {"breaks_ties_by_index": LIKENESS_DECIDES},
    "nearest": {"follows_the_tokens": TIES_IN_VALUE},
    "neighbours": {"changes_nothing_where_all_is_kept": GATHERS},
    "outliers": {"uses_all_room": "there may be few"},
    "random": {"breaks_ties_by_index": SCORES_ARE_IGNORED, "ranks_nan_last": SCORES_ARE_IGNORED},
    "strided": {
        "breaks_ties_by_index": SCORES_ARE_IGNORED,
        "ranks_nan_last": SCORES_ARE_IGNORED,
        "is_nested": "a longer stride is another stride",
    },
    "quota": {
        **QUOTA,
        "is_nested": "room is shared out anew, and what rounding leaves goes elsewhere",
    },
    "unlike": {
        "follows_the_tokens": TIES_IN_VALUE,
        "breaks_ties_by_index": LIKENESS_DECIDES,
        "ranks_nan_last": LIKENESS_DECIDES,
    },
    "uniform_grid": {
        "breaks_ties_by_index": SCORES_ARE_IGNORED,
        "ranks_nan_last": SCORES_ARE_IGNORED,
        "is_nested": "a wider lattice is another lattice",
    },
}

VARIANTS = [
    ("importance", "text_attention", {"heads": "max", "query": "mean", "layer": "same"}, {}),
    ("importance", "feature_norm", {"order": 1}, {}),
    ("importance", "vision_attention", {"heads": "max", "query": "mean", "layer": 0}, {}),
    ("importance", "vision_attention", {"heads": "sum"}, {}),
    ("importance", "feature_norm", {"order": 1, "of": "keys"}, {}),
    ("importance", "in_context", {"of": "vision_attention", "chunks": 3, "weight": 1.0}, {}),
    ("importance", "off_centre", {"centre": "plane", "channels": 0.3}, {}),
    ("importance", "off_centre", {"centre": "sample", "channels": 1.0}, {}),
    ("importance", "text_similarity", {"space": "joint", "prefer": "far"}, {}),
    ("importance", "text_similarity", {"texts": "mean", "without_text": "feature_norm"}, {}),
    ("importance", "magnitude", {"order": 1}, {}),
    ("bias", "rope_only", {"theta": 2.0, "dim": 2}, {}),
    ("bias", "measured", {"removal": "difference", "layout": "whole", "resize": "linear"}, {}),
    ("graph", "cosine", {"scaling": "shift"}, {}),
    ("graph", "cosine", {"scaling": "min_max"}, {}),
    ("graph", "cosine", {"above": 0.0}, {}),
    ("graph", "grid", {"falloff": "gaussian", "above": 0.3}, {}),
    ("graph", "grid", {"falloff": "radius", "radius": 2}, {}),
    ("graph", "blend", {**FIELDS["blend"], "alpha": 1.0}, {}),
    ("graph", "blend", {**FIELDS["blend"], "alpha": 0.0}, {}),
    ("graph", "blend", {"semantic": {"use": "blend", **FIELDS["blend"]}, "spatial": "grid"}, {}),
    ("graph", "faiss_knn", {"k": 1, "above": 0.0}, {}),
    ("graph", "same_place", {"alike": -1.0}, {}),
    ("graph", "same_place", {"alike": 0.3}, {}),
    (
        "graph",
        "faiss_knn",
        {"k": 1, "certify": False},
        {"follows_the_tokens": "which of several equally near neighbours are the k nearest is up to FAISS"},
    ),
    ("select", "mis", {"around_kept": "suppress"}, {"uses_all_room": MAY_RUN_DRY}),
    ("select", "top_k", {"share": 0.7}, {"uses_all_room": "it leaves room on purpose"}),
    ("select", "fill", {"by": "farthest"}, EXEMPT["max_min"]),
    ("select", "max_min", {"start": "score"}, EXEMPT["max_min"]),
    ("select", "dpp", {"relevance": "raw"}, EXEMPT["dpp"]),
    (
        "select",
        "dpp",
        {"relevance": "none"},
        {
            "breaks_ties_by_index": SCORES_ARE_IGNORED,
            "ranks_nan_last": SCORES_ARE_IGNORED,
            "follows_the_tokens": TIES_IN_VALUE,
        },
    ),
    (
        "select",
        "mmr",
        {"balance": 0.0},
        {"breaks_ties_by_index": LIKENESS_DECIDES, "follows_the_tokens": TIES_IN_VALUE},
    ),
    ("select", "mmr", {"balance": 1.0}, {}),
    (
        "select",
        "anchors",
        {"share": 1.0, "edges": "wrap"},
        {**EXEMPT["anchors"], "ranks_nan_last": AROUND},
    ),
    ("select", "deduplicate", {"at_once": 1}, EXEMPT["deduplicate"]),
    ("select", "mmr", {"at_once": 3}, EXEMPT["mmr"]),
    ("select", "top_k", {"most": 2}, {"uses_all_room": "it leaves room on purpose"}),
    (
        "select",
        "unlike",
        {"texts": 0},
        {**EXEMPT["unlike"], "uses_all_room": "without a pivot it takes nothing"},
    ),
    (
        "select",
        "quota",
        {"part": "chunk", "chunks": 3, "share": "mean", "leftover": "share"},
        QUOTA,
    ),
    (
        "select",
        "quota",
        {"share": "softmax", "worth": "feature_norm"},
        QUOTA,
    ),
    ("select", "quota", {"part": "cell", "rows": 2, "columns": 3, "least": 1}, QUOTA),
    ("select", "quota", {"part": "segment", "alike": 0.5, "share": "mean"}, QUOTA),
    ("select", "quota", {"part": "chunk", "chunks": 2, "first": "mis"}, QUOTA),
    ("select", "coverage", {"alpha": 0.0}, EXEMPT["coverage"]),
    ("select", "coverage", {"alpha": 2.0}, EXEMPT["coverage"]),
    ("importance", "vision_attention", {"heads": "max", "query": "mean", "layer": -1}, {}),
    ("importance", "rated_attention", {"layer": "same"}, {}),
    ("select", "bipartite", {"by": "mean_keys"}, EXEMPT["bipartite"]),
    (
        "select",
        "density_peaks",
        {"per": 2, "neighbours": 3},
        {**EXEMPT["density_peaks"], "uses_all_room": "it leaves room on purpose"},
    ),
    ("select", "outliers", {"factor": 0.0}, EXEMPT["outliers"]),
    ("select", "outliers", {"fill": "score"}, {}),
    ("select", "outliers", {"fill": "score", "leave": 1}, {"uses_all_room": "it leaves room on purpose"}),
    (
        "select",
        "strided",
        {"among": "all", "leave": 1},
        {**EXEMPT["strided"], "uses_all_room": "what is kept already may stand where it would step"},
    ),
    ("select", "strided", {"step": 2}, {**STEPS, "uses_all_room": "it may step beyond the last token"}),
    ("merge", "nearest", {"into": ["best"], "by": "mean_keys", "rule": "add_mean"}, EXEMPT["nearest"]),
    ("merge", "nearest", {"halves": True, "by": "keys", "weight": "size"}, EXEMPT["nearest"]),
    ("merge", "nearest", {"distance": "euclidean", "into": ["best"], "share": 0.3}, EXEMPT["nearest"]),
    (
        "merge",
        "nearest",
        {"into": ["rest"], "rule": "sum", "weight": "score"},
        {
            "changes_nothing_where_all_is_kept": "a token counts as much as its score says, even alone",
            **EXEMPT["nearest"],
        },
    ),
    ("merge", "nearest", {"rule": "add", "weight": "score"}, EXEMPT["nearest"]),
    (
        "merge",
        "neighbours",
        {"k": 2, "rule": "mean", "weight": "size"},
        {**EXEMPT["neighbours"], "follows_the_tokens": TIES_IN_VALUE},
    ),
]


def made(kind, name, fields, prior_file):
    """The stage of that kind and name, made the way a pipeline file makes it."""
    if name == "measured":
        fields = {"prior": str(prior_file), **fields}
    if name == "faiss_knn" and find_spec("faiss") is None:
        pytest.skip("FAISS is not installed: pip install 'prunekit[faiss-cpu]'")
    registry = pk.installed()
    return registry.stage(kind, name).model_validate({"use": name, **fields}, context={"registry": registry})


@pytest.mark.parametrize("kind, name", [(entry.kind, entry.name) for entry in pk.installed().stages])
def test_stage(kind, name, prior_file):
    conformance(made(kind, name, FIELDS.get(name, {}), prior_file), exempt=EXEMPT.get(name, {}))


@pytest.mark.parametrize("kind, name, fields, exempt", VARIANTS)
def test_stage_with_other_values(kind, name, fields, exempt, prior_file):
    conformance(made(kind, name, fields, prior_file), exempt=exempt, examples=15)


@pytest.mark.parametrize("name", [entry.name for entry in pk.installed().pipelines])
def test_pipeline(name, prior_file):
    pipeline = pk.load(name)
    prior = made("bias", "measured", {}, prior_file)
    biases = [prior if bias.use == "measured" else bias for bias in pipeline.bias]
    conformance(pipeline.swap(bias=biases), examples=25 // len(pipeline.cuts))


@pytest.mark.parametrize("select", [["mis"], [{"use": "top_k", "share": 0.01}], ["mis", "uniform_grid"]])
def test_room_that_no_selector_uses_is_filled(select):
    conformance(pk.load("fastv").swap(graph={"use": "cosine", "above": 0.0}, select=select))
