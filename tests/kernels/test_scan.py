"""The greedy scan has three forms, and each is the textbook walk."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.kernels import scan
from prunekit.kernels.bits import packed
from prunekit.kernels.scan import rounds, scanned, walked

aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.is_nonzero.default, aten.nonzero.default)


def textbook(earlier, alive, room):
    """Walk the candidates in order; take one unless an earlier neighbour was taken; stop where room ends."""
    picked = torch.zeros_like(alive)
    for sample, living in enumerate(alive.tolist()):
        taken = []
        for candidate, lives in enumerate(living):
            if len(taken) < room[sample] and lives and not any(earlier[sample, candidate, t] for t in taken):
                taken.append(candidate)
        picked[sample, taken] = True
    return picked


def case(kind, batch, count, *, density=0.1, dead=0.1, seed=0):
    """`(earlier, alive, room)`; what lies on and above the diagonal is set at random, and must not matter."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(batch, count, count, generator=generator)
    places = torch.arange(count)
    distance = (places[:, None] - places).expand_as(chance)
    edges = {"random": chance < density, "path": distance == 1, "far": distance % 31 == 0}[kind]
    earlier = torch.where(distance > 0, edges, chance < density)
    alive = torch.rand(batch, count, generator=generator) >= dead
    room = torch.randint(0, count + 3, (batch,), generator=generator)
    return earlier, alive, room


KINDS = ["random", "path", "far"]
DENSITIES = [0.0, 0.02, 0.1, 0.5, 1.0]
cases = st.builds(
    case,
    kind=st.sampled_from(KINDS),
    batch=st.integers(0, 3),
    count=st.one_of(st.integers(0, 70), st.sampled_from([31, 32, 33, 63, 64, 65])),
    density=st.sampled_from(DENSITIES),
    dead=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=150)
@given(cases)
def test_walked_is_the_textbook_walk(given):
    assert torch.equal(walked(*given), textbook(*given))


@settings(max_examples=100)
@given(cases)
def test_enough_rounds_are_the_textbook_walk(given):
    """A path of n candidates, the slowest graph, is settled in n / 2 rounds."""
    picked, exact = rounds(*given, times=given[1].shape[-1] // 2 + 1)
    assert torch.equal(picked, textbook(*given))
    assert bool(exact.all())


@settings(max_examples=200)
@given(cases, st.integers(0, 6))
def test_rounds_say_truly_whether_they_were_enough(given, most):
    earlier, alive, room = given
    picked, exact = rounds(earlier, alive, room, most)
    walk, whole = textbook(*given), textbook(earlier, alive, torch.full_like(room, alive.shape[-1]))
    assert torch.equal(picked[exact], walk[exact])
    assert not bool((picked & ~whole).any())
    assert bool((picked.sum(-1) <= room).all())


def test_rounds_are_exact_as_soon_as_the_room_is_used():
    path = torch.arange(10)[:, None] - torch.arange(10) == 1
    everyone = torch.ones(3, 10, dtype=torch.bool)
    picked, exact = rounds(path.expand(3, -1, -1), everyone, torch.tensor([0, 2, 3]), times=2)
    assert exact.tolist() == [True, True, False]
    assert [row.nonzero().flatten().tolist() for row in picked] == [[], [0, 2], [0, 2]]


@pytest.mark.parametrize("form", [lambda *given: (walked(*given),), rounds])
@settings(max_examples=50)
@given(given=cases)
def test_a_batch_is_one_sample_after_another(form, given):
    together = form(*given)
    alone = [form(*(part[sample : sample + 1] for part in given)) for sample in range(len(given[0]))]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=False):
        assert torch.equal(whole, torch.cat(parts))


def test_walked_does_not_mind_how_memory_is_laid_out():
    earlier, alive, room = case("random", 3, 50)
    turned = earlier.mT.contiguous().mT
    assert torch.equal(walked(turned, alive.T.contiguous().T, room), walked(earlier, alive, room))


class Operations(TorchDispatchMode):
    """Counts what is done, and how often a value is read on the host."""

    def __init__(self):
        super().__init__()
        self.count, self.reads = 0, 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        self.count += 1
        self.reads += function in READS
        return function(*given, **(named or {}))


@pytest.mark.parametrize("work", [rounds, scanned, lambda earlier, alive, room: packed(earlier)])
def test_nothing_is_read_and_the_work_has_one_length(work):
    counts = set()
    for kind, batch, count in [("random", 1, 5), ("path", 3, 64), ("random", 2, 200)]:
        given = case(kind, batch, count)
        with Operations() as operations:
            work(*given)
        assert operations.reads == 0
        counts.add(operations.count)
    assert len(counts) == 1


@settings(max_examples=100)
@given(st.integers(0, 3), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_packed_words_hold_the_mask(batch, count, seed):
    random = Random(seed)
    mask = [[random.random() < 0.5 for _ in range(count)] for _ in range(batch)]
    words = packed(torch.tensor(mask, dtype=torch.bool).reshape(batch, count))
    assert words.shape == (batch, -(-count // 32))
    for entries, row in zip(mask, words.tolist(), strict=True):
        whole = sum((word % 2**32) << (32 * place) for place, word in enumerate(row))
        assert whole == sum(entry << place for place, entry in enumerate(entries))


def hold_triton_to_the_walk(device, counts):
    """Triton's answers on this device, or in its interpreter, against the walk's."""
    from prunekit.kernels import scan_triton

    for seed, count in enumerate(counts):
        for kind in KINDS:
            for density in DENSITIES if kind == "random" else [0.5]:
                given = case(kind, 2, count, density=density, seed=seed)
                picked, exact = scan_triton.walked(*(part.to(device) for part in given))
                assert torch.equal(picked.cpu(), walked(*given)), (count, kind, density)
                assert bool(exact.all())


def test_triton_walks_in_its_interpreter():
    """In a process of its own: what a kernel is depends on the environment Triton was imported in."""
    pytest.importorskip("triton")
    counts = (1, 31, 32, 33, 65, 97, 130)
    code = f"from test_scan import hold_triton_to_the_walk as hold; hold('cpu', {counts})"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=here, env=environment, check=True, timeout=240)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("width", [1, 8, 128])
def test_triton_compiles_without_a_gpu(capability, width, tmp_path, monkeypatch):
    """As `scan_triton.walked` launches it, for up to 32, 256 and 4096 candidates."""
    triton = pytest.importorskip("triton", minversion="3.3")
    backends = pytest.importorskip("triton.backends.compiler")
    from prunekit.kernels.scan_triton import WORDS_PER_THREAD, _walk

    if not hasattr(_walk, "src"):
        pytest.skip("Triton was imported to interpret")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = {"later": "*i32", "alive": "*i1", "room": "*i64", "picked": "*i1", "count": "i32"}
    source = triton.compiler.ASTSource(
        fn=_walk, signature=signature | {"width": "constexpr"}, constexprs={"width": width}
    )
    made = triton.compile(
        source,
        target=backends.GPUTarget("cuda", capability, 32),
        options={"num_warps": max(1, width // WORDS_PER_THREAD)},
    )
    assert f".target sm_{capability}" in made.asm["ptx"]
    assert "st.local" not in made.asm["ptx"], "the tile does not fit the registers"


def wrong(earlier, alive, room):
    return torch.zeros_like(alive), torch.ones_like(room, dtype=torch.bool)


def broken(earlier, alive, room):
    raise RuntimeError("no compiler")


@pytest.mark.parametrize(
    ("answer", "reason"), [(wrong, "wrong answer"), (broken, "RuntimeError: no compiler")]
)
def test_a_triton_that_fails_is_named_once_and_not_used(monkeypatch, answer, reason):
    scan_triton = pytest.importorskip("prunekit.kernels.scan_triton")
    monkeypatch.setattr(scan_triton, "walked", answer)
    scan._triton_runs.cache_clear()
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert [scan._triton_runs(torch.device("cpu")) for _ in range(2)] == [False, False]
    assert len(caught) == 1
    scan._triton_runs.cache_clear()


def test_a_triton_that_agrees_is_used(monkeypatch):
    scan_triton = pytest.importorskip("prunekit.kernels.scan_triton")
    monkeypatch.setattr(scan_triton, "walked", lambda *given: (walked(*given), None))
    scan._triton_runs.cache_clear()
    assert scan._triton_runs(torch.device("cpu"))
    scan._triton_runs.cache_clear()


@pytest.mark.gpu
def test_triton_walks_on_a_gpu():
    pytest.importorskip("triton")
    hold_triton_to_the_walk("cuda", (1, 2, 31, 32, 33, 64, 65, 257, 576, 1000, 1536, 4096))


@pytest.mark.gpu
def test_a_gpu_scans_with_triton_and_reads_nothing():
    pytest.importorskip("triton")
    given = case("path", 3, 200)
    there = [part.cuda() for part in given]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        scanned(*there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        picked, exact = scanned(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(picked.cpu(), textbook(*given))
    assert bool(exact.all())


@pytest.mark.gpu
def test_the_host_form_takes_tensors_of_a_gpu():
    given = case("random", 3, 100)
    picked = walked(*(part.cuda() for part in given))
    assert picked.is_cuda
    assert torch.equal(picked.cpu(), textbook(*given))
