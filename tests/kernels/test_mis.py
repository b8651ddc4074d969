"""Every way to walk to an independent set is the textbook walk over the whole graph."""

from dataclasses import dataclass
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.graph import ImplicitGraph
from prunekit.kernels.cosine import cosine, unit
from prunekit.kernels.known import Pick
from prunekit.kernels.mis import greedy_mis, plan_for
from prunekit.kernels.mis.cells import Cells
from prunekit.kernels.mis.lazy import lazy
from prunekit.kernels.mis.prefix import prefix
from prunekit.kernels.mis.stencil import stencil
from prunekit.kernels.ranking import NEVER, packed_key


@dataclass
class Matrix:
    """A graph given as a matrix, which notes how much of it is asked for."""

    edges: torch.Tensor
    reach: int | None = None
    asked: int = 0

    def known(self, pick):
        batch, count = self.edges.shape[:2]
        places = torch.arange(count).expand(batch, -1)
        return pick(torch.arange(batch)[:, None].expand(-1, count)), pick(places)

    def joins(self, rows, columns):
        self.asked += rows[1].numel() * columns[1].shape[-1]
        return self.edges[rows[0][:, :, None], rows[1][:, :, None], columns[1][:, None]]


def textbook(order, neighbours, room, around):
    """Walk the candidates from the best; take one unless a neighbour was taken before."""
    taken = []
    for token in order:
        if len(taken) == room:
            break
        if not neighbours[token] & {*taken, *around}:
            taken.append(token)
    return sorted(taken)


@dataclass
class Case:
    """What a walk is asked, and the textbook's answer for each sample."""

    key: torch.Tensor
    room: torch.Tensor
    web: Matrix
    around: torch.Tensor | None
    positions: torch.Tensor
    wanted: list


@st.composite
def cases(draw, reach=None):
    """Random graphs over scattered cells, with ties, tokens taken beforehand and room of all sizes.

    With `reach`, edges join only tokens that many cells apart at most on one plane.
    """
    count, batch = draw(st.integers(0, 30)), draw(st.integers(1, 3))
    density = draw(st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]))
    levels, suppress = draw(st.sampled_from([1, 3, 1000])), draw(st.booleans())
    random = Random(draw(st.integers(0, 2**32 - 1)))
    cells = [(plane, row, column) for plane in range(2) for row in range(-1, 5) for column in range(6)]
    places = [random.sample(cells, count) for _ in range(batch)]
    edges = torch.zeros(batch, count, count, dtype=torch.bool)
    for sample in range(batch):
        for i in range(count):
            for j in range(i):
                one, other = places[sample][i], places[sample][j]
                far = max(abs(a - b) for a, b in zip(one[1:], other[1:], strict=True))
                near = reach is None or (one[0] == other[0] and far <= reach)
                edges[sample, i, j] = edges[sample, j, i] = near and random.random() < density
    scores = [[float(random.randint(1, levels)) for _ in range(count)] for _ in range(batch)]
    kept = [[random.random() < 0.2 for _ in range(count)] for _ in range(batch)]
    missing = [[random.random() < 0.1 for _ in range(count)] for _ in range(batch)]
    room = [random.randint(0, count) for _ in range(batch)]
    wanted = []
    for sample in range(batch):
        rest = [t for t in range(count) if not kept[sample][t] and not missing[sample][t]]
        order = sorted(rest, key=lambda token: (-scores[sample][token], token))
        neighbours = [set(row.nonzero().flatten().tolist()) for row in edges[sample]]
        around = [t for t in range(count) if kept[sample][t]] if suppress else []
        wanted.append(textbook(order, neighbours, room[sample], around))
    kept = torch.tensor(kept, dtype=torch.bool).reshape(batch, count)
    eligible = ~kept & ~torch.tensor(missing, dtype=torch.bool).reshape(batch, count)
    return Case(
        packed_key(torch.tensor(scores).reshape(batch, count), eligible),
        torch.tensor(room),
        Matrix(edges, reach),
        kept if suppress else None,
        torch.tensor(places, dtype=torch.long).reshape(batch, count, 3),
        wanted,
    )


def listed(taken):
    return [row.nonzero().flatten().tolist() for row in taken]


@pytest.mark.parametrize("block", [1, 3, 128])
@settings(max_examples=120)
@given(case=cases())
def test_lazy_is_the_textbook_walk(block, case):
    found = lazy(case.key, case.room, case.web, case.around, block=block)
    assert listed(found.taken) == case.wanted
    assert found.exact.all()


@pytest.mark.parametrize("block", [1, 3, 256])
@pytest.mark.parametrize("reach", [1, 2])
@settings(max_examples=80)
@given(data=st.data())
def test_stencil_is_the_textbook_walk(block, reach, data):
    case = data.draw(cases(reach))
    present = (case.key != NEVER) | (case.around if case.around is not None else False)
    cells = Cells.of(case.positions, present, reach)
    if cells is None:
        assert not present.any()
        return
    found = stencil(case.key, case.room, case.web, cells, case.around, block=block)
    assert listed(found.taken) == case.wanted
    assert found.exact.all()


@pytest.mark.parametrize("block", [1, 5, 64])
@settings(max_examples=120)
@given(case=cases())
def test_prefix_is_the_textbook_walk_wherever_it_says_so(block, case):
    tokens = case.key.shape[-1]
    found = prefix(case.key, case.room, case.web, case.around, block=min(block, tokens), most=tokens)
    for taken, exact, wanted in zip(listed(found.taken), found.exact.tolist(), case.wanted, strict=True):
        assert taken == wanted if exact else set(taken) <= set(wanted)
    if block >= tokens:
        assert found.exact.all()


@settings(max_examples=80)
@given(case=cases(), data=st.data())
def test_a_batch_is_its_samples_one_by_one(case, data):
    engine = data.draw(st.sampled_from(["host", "device"]))
    together, _ = greedy_mis(case.key, case.room, case.web, case.around, engine=engine)
    for sample in range(len(case.room)):
        one = slice(sample, sample + 1)
        around = None if case.around is None else case.around[one]
        alone, _ = greedy_mis(
            case.key[one], case.room[one], Matrix(case.web.edges[one]), around, engine=engine
        )
        assert listed(alone.taken) == listed(together.taken[one])


def test_most_of_the_graph_is_never_asked_for():
    """Where the budget is small, only the best candidates are looked at."""
    scores = torch.rand(1, 4096, generator=torch.Generator().manual_seed(0))
    key = packed_key(scores, torch.ones(1, 4096, dtype=torch.bool))
    web = Matrix(torch.zeros(1, 4096, 4096, dtype=torch.bool))
    found, plan = greedy_mis(key, torch.tensor([100]), web)
    assert int(found.taken.sum()) == 100
    assert web.asked == plan.block**2 < 128**2


def test_where_edges_do_not_reach_far_only_near_pairs_are_asked_for():
    """A dry walk over a whole grid asks for fewer pairs than tokens have neighbours."""
    side = 40
    cells = torch.cartesian_prod(torch.zeros(1).long(), torch.arange(side), torch.arange(side))[None]
    far = (cells[:, :, None] - cells[:, None]).abs().amax(-1)
    web = Matrix(far == 1, reach=1)
    scores = torch.rand(1, side**2, generator=torch.Generator().manual_seed(0))
    key = packed_key(scores, torch.ones(1, side**2, dtype=torch.bool))
    found, plan = greedy_mis(key, torch.tensor([side**2]), web, positions=cells)
    assert plan.way == "stencil"
    assert web.asked < 8 * side**2
    assert torch.equal(found.taken, greedy_mis(key, torch.tensor([side**2]), web)[0].taken)


def test_more_tokens_than_a_block():
    """A path graph longer than a block: every second token is taken."""
    count = 300
    places = torch.arange(count)
    scores = torch.arange(count, 0, -1)[None].float()
    key = packed_key(scores, torch.ones(1, count, dtype=torch.bool))
    web = Matrix(((places[:, None] - places).abs() == 1)[None])
    found, _ = greedy_mis(key, torch.tensor([count]), web)
    assert listed(found.taken) == [list(range(0, count, 2))]


def test_samples_that_are_done_leave_the_batch():
    """A sample with a long walk does not make the others walk with it."""
    edges = torch.zeros(8, 512, 512, dtype=torch.bool)
    edges[0] = ~torch.eye(512, dtype=torch.bool)
    key = packed_key(torch.arange(512.0, 0, -1).expand(8, -1), torch.ones(8, 512, dtype=torch.bool))
    alone, among = Matrix(edges[:1]), Matrix(edges)
    greedy_mis(key[:1], torch.tensor([32]), alone)
    found, _ = greedy_mis(key, torch.full((8,), 32), among)
    assert found.taken.sum(-1).tolist() == [1] + [32] * 7
    assert among.asked - alone.asked == 7 * 32 * 32


@pytest.mark.parametrize(
    "strewn", [torch.tensor([[[0, 0, 0], [0, 0, 0]]]), torch.tensor([[[0, 0, 0], [0, 10**6, 10**6]]])]
)
def test_tokens_on_one_cell_or_strewn_wide_have_no_map(strewn):
    assert Cells.of(strewn, torch.ones(1, 2, dtype=torch.bool), 1) is None


@pytest.mark.parametrize(
    "engine, reach, way",
    [("host", None, "lazy"), ("host", 1, "stencil"), ("host", 9, "lazy"), ("device", 1, "prefix")],
)
def test_the_plan(engine, reach, way):
    plan = plan_for(engine, 2880, 288, reach)
    assert plan.way == way
    assert str(plan).startswith(f"{way}: ")


def test_known_values_are_picked_from_the_samples_asked_for():
    values = torch.arange(12).view(3, 4)
    pick = Pick(torch.tensor([[0, 3], [1, 1]]), torch.tensor([2, 0]))
    assert pick(values).tolist() == [[8, 11], [1, 1]]


def test_who_else_is_in_the_batch_changes_no_bit_of_a_token():
    """A threshold that is one of the cosines, and a sample of zeros beside: the same tokens are taken."""
    make = torch.Generator().manual_seed(0)
    features = torch.randn(1, 60, 24, generator=make)
    cosines = cosine(unit(features), unit(features))[0]
    everyone = torch.ones(2, 60, dtype=torch.bool)
    for above in cosines[0, 1:20].tolist():
        for samples in (1, 2):
            batch = torch.cat([features, torch.zeros_like(features)])[:samples]
            graph = ImplicitGraph(
                everyone[:samples], lambda pick, batch=batch: unit(pick(batch), pick.look), cosine, above
            )
            key = packed_key(torch.arange(60.0).expand(samples, -1), everyone[:samples])
            found, _ = greedy_mis(key, torch.full((samples,), 60), graph)
            if samples == 1:
                alone = listed(found.taken)[0]
        assert listed(found.taken)[0] == alone


@pytest.mark.parametrize("features", [torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 1e30], [1e-30, 0.0]])])
def test_unit_is_the_same_to_the_bit_whether_it_may_look(features):
    for rows in (features, features[:1]):
        assert torch.equal(unit(rows, look=True), unit(features)[: len(rows)])
