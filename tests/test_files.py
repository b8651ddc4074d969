"""Pipeline files: read back as written, wrong ones refused with their place, and nothing else ever raised."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import prunekit as pk
from prunekit.files import with_settings

SHIPPED = [entry.name for entry in pk.installed().pipelines]

MINIMAL = "importance: feature_norm\nselect: top_k\n"


@pytest.fixture
def loaded(tmp_path):
    """Writes a file (and others beside it) and loads it."""

    def load(text, **others):
        for name, content in others.items():
            (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
        file = tmp_path / "mine.yaml"
        if isinstance(text, bytes):
            file.write_bytes(text)
        else:
            file.write_text(text, encoding="utf-8")
        return pk.load(file)

    return load


# --- what is written is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_pipelines_survive_the_round_trip(name, loaded):
    pipeline = pk.load(name)
    assert pipeline.name == name
    assert loaded(pk.to_yaml(pipeline)) == pipeline


shares = st.floats(0, 1, exclude_min=True)
cosine = st.fixed_dictionaries(
    {"use": st.just("cosine"), "scaling": st.sampled_from(["clip", "shift", "min_max"]), "above": shares}
)
grid = st.fixed_dictionaries(
    {"use": st.just("grid"), "sigma": st.floats(1e-3, 1e3), "radius": st.integers(1, 9)}
)
graphs = st.recursive(
    st.one_of(cosine, grid, st.just("cosine")),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"use": st.just("all_of"), "of": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries(
            {"use": st.just("blend"), "semantic": inner, "spatial": inner, "alpha": shares, "above": shares}
        ),
    ),
    max_leaves=4,
)
selectors = st.one_of(
    st.fixed_dictionaries({"use": st.just("top_k"), "share": shares}),
    st.sampled_from(["mis", "fill", "uniform_grid", {"use": "mis", "around_kept": "suppress"}]),
    st.fixed_dictionaries({"use": st.just("random"), "seed": st.integers(0, 2**31 - 1)}),
)
biases = st.one_of(
    st.fixed_dictionaries({"use": st.just("exponential"), "rate": st.floats(0, 1)}),
    st.fixed_dictionaries({"use": st.just("measured"), "prior": st.text(min_size=1)}),
)
mergers = st.recursive(
    st.one_of(
        st.sampled_from([None, "nearest", {"use": "nearest", "into": ["rest"], "halves": True}]),
        st.fixed_dictionaries({"use": st.just("neighbours"), "k": st.integers(1, 99)}),
    ),
    lambda some: st.fixed_dictionaries(
        {"use": st.just("in_turn"), "of": st.lists(some.filter(bool), min_size=1, max_size=2)}
    ),
    max_leaves=3,
)
pipelines = st.fixed_dictionaries(
    {"importance": st.sampled_from(["feature_norm", "constant", "text_attention"]),
     "select": st.lists(selectors, min_size=1, max_size=3)},
    optional={"name": st.text(), "cites": st.lists(st.text()), "family": st.text(), "summary": st.text(),
              "differs": st.lists(st.text()),
              "budget": st.one_of(st.integers(1, 2**63 - 1), shares),
              "at": st.fixed_dictionaries({"layer": st.integers(0, 99)}), "graph": graphs,
              "bias": st.lists(biases, max_size=3), "positions": st.sampled_from(["keep", "repack"]),
              "merge": mergers},
)  # fmt: skip


@settings(max_examples=300)
@given(pipelines)
def test_any_pipeline_survives_the_round_trip(tmp_path_factory, blocks):
    pipeline = pk.Pipeline.validated(blocks, pk.installed(), "a test")
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(pk.to_yaml(pipeline), encoding="utf-8")
    assert pk.load(file) == pipeline


def test_every_value_is_written():
    written = yaml.safe_load(pk.to_yaml(pk.load("fastv")))
    assert set(written) == set(pk.Pipeline.model_fields) - {"stages"}
    assert written["importance"] == {
        "use": "text_attention",
        "query": "last",
        "heads": "mean",
        "layer": "previous",
    }


# --- YAML's traps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO", "y", "n"])
def test_words_are_words(loaded, word):
    assert loaded(f"{MINIMAL}name: {word}\n").name == word


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 0.001), ("1E-3", 0.001), (".5", 0.5), ("5.e-1", 0.5), ("1.0", 1.0), ("+0.5", 0.5)],
)
def test_numbers_are_numbers(loaded, text, value):
    budget = loaded(f"{MINIMAL}budget: {text}\n").budget
    assert budget == value
    assert isinstance(budget, float)


@pytest.mark.parametrize(
    "text", ["0", "-1", "1.5", "ten", "true", "null", "'64'", "[64]", "0x10", "1_000", ".nan"]
)
def test_wrong_budgets_are_refused_where_they_stand(loaded, text):
    with pytest.raises(pk.ConfigError, match=r"mine\.yaml:3:1: budget: a budget is a count"):
        loaded(f"{MINIMAL}budget: {text}\n")


def test_one_keeps_one_and_one_point_zero_keeps_all(loaded):
    counts = [loaded(f"{MINIMAL}budget: {text}\n").budget for text in ("1", "1.0", "010")]
    assert [(type(count), count) for count in counts] == [(int, 1), (float, 1.0), (int, 10)]


@pytest.mark.parametrize("text", ["2024-01-01", "12:30:45", "<<", "=", "~x"])
def test_what_yaml_would_turn_into_something_else_stays_a_word(loaded, text):
    assert loaded(f"{MINIMAL}name: {text}\n").name == text


# --- extends ----------------------------------------------------------------------------------------------


def test_extends_replaces_whole_blocks(loaded):
    child = loaded("extends: d2pruner\ngraph: {use: grid, radius: 3}\nbudget: 64\n")
    parent = pk.load("d2pruner")
    assert child.graph == pk.installed().stage("graph", "grid")(radius=3)
    assert child == parent.swap(graph=child.graph, budget=64)


def test_extends_may_take_a_block_away(loaded):
    child = loaded("extends: d2pruner\nbias: null\ngraph: ~\n")
    assert child.bias == ()
    assert child.graph is None


def test_extends_takes_the_family_and_not_what_speaks_of_the_other_file_alone(loaded):
    parent = "extends: fastv\nfamily: mine\nsummary: Mine.\ndiffers: Wholly.\ncites: arXiv:1\n"
    child = loaded("extends: parent.yaml\nbias: exponential\n", parent=parent)
    assert (child.family, child.cites) == ("mine", ("arXiv:1",))
    assert (child.summary, child.differs) == ("", ())
    assert loaded("extends: fastv\n").swap(budget=7).family == "attention"
    assert loaded("importance: constant\nselect: top_k\n").family == "other"


def test_extends_a_file_beside_it_through_generations(loaded):
    child = loaded("extends: parent.yaml\nname: child\n", parent="extends: fastv\nbudget: 7\nname: parent\n")
    assert child == pk.load("fastv").swap(name="child", budget=7)


@pytest.mark.parametrize(
    "others",
    [{"other": "extends: mine.yaml\n"}, {"other": "extends: third.yaml\n", "third": "extends: other.yaml\n"}],
)
def test_extends_in_a_circle_is_refused(loaded, others):
    with pytest.raises(pk.ConfigError, match=r"round in a circle.*→"):
        loaded("extends: other.yaml\n", **others)


@pytest.mark.parametrize(
    "parent, message",
    [
        ("d2prune", "no pipeline 'd2prune'. Did you mean 'd2pruner'"),
        ("gone.yaml", "no pipeline file"),
        ("[fastv]", "name one pipeline or file"),
        ("3", "name one pipeline or file"),
        ("{use: fastv}", "name one pipeline or file"),
    ],
)
def test_parents_that_are_not_there(loaded, parent, message):
    with pytest.raises(pk.ConfigError, match=rf"mine\.yaml:2:1: extends: .*{message}"):
        loaded(f"budget: 3\nextends: {parent}\n")


def test_a_mistake_of_a_parent_is_marked_in_the_parent(loaded):
    with pytest.raises(pk.ConfigError, match=r"parent\.yaml:2:\d+: positions"):
        loaded("extends: parent.yaml\n", parent="extends: fastv\npositions: moved\n")


# --- mistakes, each with its place ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, place, message",
    [
        ("importance: feature_nrom\nselect: top_k\n", "1:1", "Did you mean 'feature_norm'"),
        ("importance: feature_norm\nselect: [top_k, mos]\n", "2:17", "Did you mean 'mis'"),
        (MINIMAL + "graph:\n  use: cosine\n  abov: 0.5\n", "5:3", "Did you mean 'above'"),
        (MINIMAL + "graph: {use: cosine, above: high}\n", "3:22", "graph.above"),
        (MINIMAL + "graph:\n  use: all_of\n  of:\n  - mis\n  - {use: gird}\n", "7:5", "Did you mean 'grid'"),
        (MINIMAL + "bugdet: 3\n", "3:1", "Did you mean 'budget'"),
        (MINIMAL + "budget: 3\nbudget: 4\n", "4:1", "the key 'budget' is given twice"),
        (MINIMAL + "graph: {use: cosine, use: grid}\n", "3:22", "the key 'use' is given twice"),
        (MINIMAL + "3: 4\n", "3:1", "a key must be a word"),
        (MINIMAL + "? [a, b]\n: 4\n", "3:3", "not YAML"),
        (MINIMAL + "at: {layer: two}\n", "3:6", "at.layer"),
        ("select: top_k\n", "1:1", "importance: this field is required"),
        ("- a\n- b\n", "1:1", "a pipeline is a mapping of blocks"),
        ("just text\n", "1:1", "a pipeline is a mapping of blocks"),
        ("", "1:1", "a pipeline is a mapping of blocks"),
        ("a: [1, 2\n", "2:1", "not YAML"),
        ("a: b: c\n", "1:5", "not YAML"),
        (MINIMAL + "graph: !!python/object:os.system {}\n", "3:8", "not YAML"),
        (MINIMAL + "graph: &a {use: all_of, of: [*a]}\n", "3:8", "contains itself"),
        ("\tname: x\n", "1:1", "not YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_marked(loaded, text, place, message):
    with pytest.raises(pk.ConfigError) as caught:
        loaded(text)
    assert f"mine.yaml:{place}: " in str(caught.value)
    assert message in str(caught.value)


def test_all_mistakes_are_marked_at_once(loaded):
    with pytest.raises(pk.ConfigError) as caught:
        loaded("importance: nothing\nselect: [top_k]\nbudget: 0\nbudget: -1\npositions: moved\n")
    for place in ("1:", "4:", "5:"):
        assert f"mine.yaml:{place}" in str(caught.value)


def test_a_caret_stands_under_the_place(loaded):
    with pytest.raises(pk.ConfigError) as caught:
        loaded(MINIMAL + "graph: {use: cosine, above: high}\n")
    _, text, caret = str(caught.value).splitlines()
    assert text[caret.index("^") :].startswith("above: high")


def test_files_that_cannot_be_read(tmp_path, loaded):
    with pytest.raises(pk.ConfigError, match="no pipeline file"):
        pk.load(tmp_path / "gone.yaml")
    with pytest.raises(pk.ConfigError, match="no pipeline file"):
        pk.load(tmp_path)
    with pytest.raises(pk.ConfigError, match="not UTF-8"):
        loaded(b"name: \xff\xfe\n")


# --- whatever the file, a pipeline or a refusal -----------------------------------------------------------


def refused_or_loaded(file, content):
    file.write_bytes(content)
    try:
        assert isinstance(pk.load(file), pk.Pipeline)
    except pk.PrunekitError as error:
        assert str(error)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "any.yaml"


@settings(max_examples=300)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_random_bytes(scratch, content):
    refused_or_loaded(scratch, content)


@settings(max_examples=300)
@given(content=st.text("{}[]:,-?&*!|>'\"%@`#~ \n\tabc123.eE_<=", max_size=60))
def test_random_yaml_signs(scratch, content):
    refused_or_loaded(scratch, content.encode())


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
              st.sampled_from(["cosine", "mis", "use", "top_k", "d2pruner"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["use", "of", "above", "share", "layer", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*pk.Pipeline.model_fields, "extends"]), plain, max_size=6))
def test_random_values_in_the_right_blocks(scratch, blocks):
    refused_or_loaded(scratch, yaml.safe_dump({**yaml.safe_load(MINIMAL), **blocks}).encode())


@settings(max_examples=600)
@given(name=st.sampled_from(SHIPPED), edits=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_mutated_shipped_files(scratch, name, edits, seed):
    random = Random(seed)
    text = Path(pk.installed().pipeline(name).origin.file).read_text(encoding="utf-8")
    lines = (text if random.random() < 0.5 else pk.to_yaml(pk.load(name))).splitlines()
    for _ in range(edits):
        line = random.randrange(len(lines))
        place = random.randrange(len(lines[line]) + 1)
        head, tail = lines[line][:place], lines[line][place:]
        lines[line] = random.choice(
            [
                head + tail[1:],
                head + random.choice("{}[]:,-&*!#'\" \t019.~é\x00") + tail,
                "",
                lines[random.randrange(len(lines))],
                head + random.choice(lines) + tail,
                "  " + lines[line],
            ]
        )
    refused_or_loaded(scratch, "\n".join(lines).encode())


def test_a_file_nested_without_end(loaded):
    for text in (MINIMAL + "graph: " + "[" * 5000, MINIMAL + "graph: " + "{a: " * 3000 + "1" + "}" * 3000):
        with pytest.raises(pk.ConfigError):
            loaded(text)


def test_a_number_without_end(loaded):
    with pytest.raises(pk.ConfigError):
        loaded(MINIMAL + "budget: -" + "9" * 5000)


# --- single values set ------------------------------------------------------------------------------------


def test_single_values_are_set():
    changed = with_settings(pk.load("d2pruner"), ["graph.alpha=0.5", "select.1.use=top_k", "budget=1"])
    assert changed.graph.alpha == 0.5
    assert [selector.use for selector in changed.select] == ["top_k", "top_k", "fill"]
    assert (type(changed.budget), changed.budget) == (int, 1)


@settings(max_examples=200)
@given(
    path=st.one_of(
        st.sampled_from(["budget", "graph", "select.0", "at.layer", "bias.use", "x", "select.9"]), st.text()
    ),
    value=st.one_of(st.text("{}[]:,-?&*!|>'\"%@`# \nabc123.e", max_size=20), st.text()),
)
def test_any_setting_gives_a_pipeline_or_a_refusal(path, value):
    try:
        assert isinstance(with_settings(pk.load("d2pruner"), [f"{path}={value}"]), pk.Pipeline)
    except pk.PrunekitError as error:
        assert str(error)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{outer}: &{outer} [{','.join([f'*{inner}'] * 9)}]\n" for inner, outer in pairwise("abcdefghi")
)
"""Nine lines that mean eighty million values."""


@pytest.mark.parametrize(
    "text",
    [
        'name: !!bool "x"',
        "name: !!int [1]",
        'name: !!timestamp "x"',
        "!!set {name, importance}",
        "name: !!python/object:os.system x",
        "budget: 99999999999999999999999",
        BOMB,
    ],
)
def test_what_yaml_can_do_and_a_pipeline_must_not(text, tmp_path):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(pk.ConfigError, match=r"odd\.yaml:"):
        pk.load(file)


def test_an_unknown_parent_hides_no_other_mistake(tmp_path):
    file = tmp_path / "orphan.yaml"
    file.write_text("extends: d2prunr\nnme: x\nselect: topk\n")
    with pytest.raises(pk.ConfigError) as error:
        pk.load(file)
    told = str(error.value)
    for hint in ("Did you mean 'd2pruner'?", "Did you mean 'name'?", "Did you mean 'top_k'?"):
        assert hint in told
    assert "required" not in told


def test_extends_is_among_the_words_of_a_file(tmp_path):
    file = tmp_path / "extend.yaml"
    file.write_text("extend: d2pruner\n")
    with pytest.raises(pk.ConfigError, match="Did you mean 'extends'"):
        pk.load(file)


def test_a_mistake_in_a_replaced_block_points_into_the_child(tmp_path):
    file = tmp_path / "child.yaml"
    file.write_text("extends: d2pruner\ngraph: {use: blend, semantic: cosine}\n")
    with pytest.raises(pk.ConfigError, match=r"child\.yaml:2:1: graph\.spatial"):
        pk.load(file)
