"""Tests the search by FAISS on a GPU, on a pretended device with the search of FAISS for the CPU.

What is true of every engine is asked of this one too; then the search is made wrong on purpose.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import ncfast
from ncfast.information.neighbors import (
    dispatch,
    faiss_flat,
    knn,
    neighbor_backend,
    neighbor_backends,
)
from ncfast.ops import _verdicts
from ncfast.ops._verdicts import Subject, Table, Verdict
from ncfast.self_check import neighbors as self_check
from ncfast.self_check.forms import Wrong

if not faiss_flat.INSTALLED:
    pytest.skip("needs faiss-cpu", allow_module_level=True)

from information.neighbors.faiss_on_cuda import Faiss, cuda, playing
from information.neighbors.test_exact import FLOATS, K, collapsed
from pretended_cuda import CUDA


@pytest.fixture
def faiss(monkeypatch):
    with playing(monkeypatch) as played:
        yield played


def assert_exact(x: Tensor, labels: Tensor | None = None, k: int = K) -> float:
    """Compare with the reference in memory; return the certified share."""
    found = knn(cuda(x), k, labels=cuda(labels), backend="faiss")
    expected = knn(x, k, labels=labels, backend="reference")
    assert found.backend == "faiss"
    assert torch.equal(found.distances.below, expected.distances)
    assert torch.equal(found.indices.below, expected.indices)
    return found.certified


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", range(9))
def test_collapse(faiss: Faiss, exponent: int, dtype: torch.dtype) -> None:
    x, labels = collapsed(10.0**-exponent, dtype)
    assert_exact(x)
    assert_exact(x, labels)
    assert max(faiss.moved) <= labels.unique().numel()  # only the sizes of classes are read


def test_the_certificate_sees_collapse(faiss: Faiss) -> None:
    assert assert_exact(torch.randn(500, 12, generator=torch.Generator().manual_seed(8))) == 1
    assert assert_exact(collapsed(1e-6, torch.float32, rows=500)[0]) < 0.01


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_and_duplicates(faiss: Faiss, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    lattice = torch.randint(-2, 3, (150, 3), generator=generator).to(dtype)
    half_atoms = torch.randn(150, 2, generator=generator).to(dtype).relu()
    for x in (lattice, half_atoms, torch.zeros(40, 2, dtype=dtype), half_atoms[:, :1]):
        assert_exact(x, torch.arange(len(x)) % 3)
        assert_exact(x)


@pytest.mark.parametrize("scale", [1e-170, 1e-40, 1e-12, 1e8, 1e130])
def test_scale(faiss: Faiss, scale: float) -> None:
    x = scale * torch.randn(120, 3, generator=torch.Generator().manual_seed(2)).double()
    x[0] *= 1e6
    assert_exact(x)


@pytest.mark.parametrize(("rows", "d", "k"), [(2, 1, 1), (17, 3, 16), (65, 7, 40), (90, 2000, 3)])
def test_shapes(faiss: Faiss, rows: int, d: int, k: int) -> None:
    assert_exact(torch.randn(rows, d, generator=torch.Generator().manual_seed(3)), k=k)


def test_strides(faiss: Faiss) -> None:
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(4))
    for view in (x.T, x[::2, ::3].T, x.flip(1).T):
        assert_exact(view)


def test_classes_too_small(faiss: Faiss) -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(5))
    assert_exact(x, torch.cat([torch.arange(12), torch.tensor([20] * 3 + [-7] * 15)]))


def test_memory_is_bounded_by_tiles(faiss: Faiss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_flat, "_SCORES", 1000)
    assert assert_exact(torch.randn(300, 5, generator=torch.Generator().manual_seed(6))) == 1
    assert faiss.tiles == [3] * 100
    monkeypatch.setattr(faiss_flat, "_WIDEST", 100)  # FAISS cuts the columns itself
    faiss.tiles.clear()
    assert_exact(torch.randn(300, 5, generator=torch.Generator().manual_seed(6)))
    assert faiss.tiles == [10] * 30


def test_scratch_memory_is_taken_once_and_holds_two_tiles(faiss: Faiss) -> None:
    for _ in range(2):
        assert_exact(torch.randn(50, 4, generator=torch.Generator().manual_seed(7)))
    assert faiss.settings == ["made", f"temporary {faiss_flat._SCRATCH}", "pinned 0"]
    assert faiss_flat._SCRATCH > 2 * 4 * faiss_flat._SCORES


# What a broken search may return. Each takes queries, rows, squared distances and indices.


def scattered(scores: Tensor, share: float = 0.1) -> Tensor:
    """(Q,) some of the queries."""
    return torch.rand(len(scores), generator=torch.Generator().manual_seed(9)) < share


def nearest_missing(queries, rows, scores, indices):
    """Drop the nearest neighbour of some queries; all scores are honest."""
    wrong, (more, others) = scattered(scores), everything(queries, rows)
    number = scores.shape[1]
    kept = [0, *range(2, number + 1)]
    scores[wrong], indices[wrong] = more[wrong][:, kept], others[wrong][:, kept]
    return scores, indices


def a_block_missing(queries, rows, scores, indices):
    """Leave out rows 100 to 150, as if a tile were skipped."""
    left = torch.cat([torch.arange(100), torch.arange(150, len(rows))])
    more, others = everything(queries, rows[left])
    return more[:, : scores.shape[1]], left[others[:, : scores.shape[1]]]


def everything(queries, rows):
    return torch.cdist(queries.double(), rows.double()).square().float().sort(dim=1, stable=True)


def fewer_found(queries, rows, scores, indices):
    """End some lists as FAISS does if it finds too few: -1 at the largest float."""
    wrong = scattered(scores)
    scores[wrong, -3:], indices[wrong, -3:] = torch.finfo(torch.float32).max, -1
    return scores, indices


def nan_scores(queries, rows, scores, indices):
    scores[scattered(scores), -1] = torch.nan
    return scores, indices


def one_nan_inside(queries, rows, scores, indices):
    scores[17, 3] = torch.nan
    return scores, indices


def row_named_twice(queries, rows, scores, indices):
    wrong = scattered(scores)
    scores[wrong, 2], indices[wrong, 2] = scores[wrong, 1], indices[wrong, 1]
    return scores, indices


def row_out_of_range(queries, rows, scores, indices):
    indices[11, 4] = len(rows)
    indices[12, 4] = -(1 << 62)
    indices[13, 4] = 1 << 62
    return scores, indices


def results_of_the_next_query(queries, rows, scores, indices):
    return scores.roll(1, 0), indices.roll(1, 0)


def never_written(queries, rows, scores, indices):
    return torch.full_like(scores, torch.nan), torch.full_like(indices, -7)


def indices_of_a_tile(queries, rows, scores, indices):
    """The numbers of later rows count from the start of their tile."""
    return scores, indices % 100


def tf32(queries, rows, scores, indices):
    """Products of numbers with 10 bits of mantissa, as with NVIDIA_TF32_OVERRIDE=1."""
    return rounded_search(queries, rows, scores.shape[1], lambda x: round_to_bits(x, 13))


def bfloat16(queries, rows, scores, indices):
    return rounded_search(queries, rows, scores.shape[1], lambda x: x.bfloat16().float())


def round_to_bits(x, dropped):
    bits = x.view(torch.int32) + (1 << (dropped - 1))
    return (bits >> dropped << dropped).view(torch.float32)


def rounded_search(queries, rows, number, rounding):
    norms = rows.square().sum(1)
    product = rounding(queries) @ rounding(rows).T
    scores = queries.square().sum(1)[:, None] + norms - 2 * product
    return scores.topk(number, largest=False)


def too_confident(queries, rows, scores, indices):
    """Scores that are too large raise the floor."""
    return scores * 1.01, indices


BROKEN = [
    nearest_missing, a_block_missing, fewer_found, nan_scores, one_nan_inside, row_named_twice,
    row_out_of_range, results_of_the_next_query, never_written, indices_of_a_tile, tf32, bfloat16,
    too_confident,
]  # fmt: skip


@pytest.mark.parametrize("spoil", BROKEN)
def test_a_broken_search_is_found_out(faiss: Faiss, spoil) -> None:
    x = torch.randn(400, 20, generator=torch.Generator().manual_seed(10))
    faiss.spoil = spoil
    with pytest.warns(RuntimeWarning, match="contradict"):
        assert assert_exact(x) == 0


@pytest.mark.parametrize("spoil", BROKEN)
@pytest.mark.parametrize("std", [1e-2, 1e-4])
def test_a_broken_search_among_collapsed_rows(faiss: Faiss, spoil, std: float) -> None:
    x, labels = collapsed(std, torch.float32, rows=400, d=20)
    faiss.spoil = spoil
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # within the error of float32 there may be nothing to find
        assert_exact(x)
        if spoil is not a_block_missing:  # its block is longer than a class
            assert_exact(x, labels)


def test_wrong_order_does_not_matter(faiss: Faiss) -> None:
    x = torch.randn(400, 20, generator=torch.Generator().manual_seed(10))
    faiss.spoil = lambda queries, rows, scores, indices: (scores.flip(1), indices.flip(1))
    assert assert_exact(x) == 1


def near_ties(rows: int, d: int) -> Tensor:
    """Pairs of a class are at distances that differ by a few units of float32, or not at all."""
    generator = torch.Generator().manual_seed(11)
    corners = torch.eye(d, dtype=torch.float64).repeat(rows // d + 1, 1)[:rows]
    step = torch.randint(-2, 3, (rows, 1), generator=generator).double() * 2.0**-26
    return corners * (1 + step) + torch.randn(rows, d, generator=generator).double() * 1e-9


@pytest.mark.parametrize("x", [near_ties(300, 20), near_ties(300, 7),
                               collapsed(1e-3, torch.float64, 300, 20)[0],
                               torch.randn(300, 20, dtype=torch.float64)])  # fmt: skip
@pytest.mark.parametrize("k", [1, 4, 12])
def test_errors_up_to_the_bound_change_nothing(faiss: Faiss, x: Tensor, k: int) -> None:
    """The search takes the rows that an adversary prefers: the nearest ones come out farther."""

    def adversary(queries, rows, scores, indices):
        exact = torch.cdist(queries.double(), rows.double(), compute_mode=EXACT).square()
        norms = rows.double().square().sum(1)
        eps = 2.0**-24
        allowed = 2 * (rows.shape[1] + 3) * eps * (norms[:, None] + norms)
        near = exact <= exact.kthvalue(k + 1, dim=1, keepdim=True).values
        score = torch.where(near, exact + allowed, exact - allowed)
        return score.float().topk(scores.shape[1], largest=False)

    faiss.spoil = adversary
    assert_exact(x, k=k)  # and without a warning


EXACT = "donot_use_mm_for_euclid_dist"


def test_a_failure_of_faiss_costs_nothing_but_time(faiss: Faiss) -> None:
    def fails(*given):
        raise RuntimeError("cudaMalloc error out of memory [2]")

    faiss.spoil = fails
    with pytest.warns(RuntimeWarning, match="FAISS failed .*out of memory.*the result is the same"):
        assert assert_exact(torch.randn(60, 20)) == 1


def proves(monkeypatch: pytest.MonkeyPatch, **states: str) -> None:
    """Let these verdicts on engines stand for the first CUDA device."""
    verdicts = {
        Subject("neighbours", name, "float64"): Verdict(state) for name, state in states.items()
    }
    table = Table(number=0, facts={}, verdicts=verdicts, complete=True)
    monkeypatch.setattr(_verdicts, "_tables", {0: table})


def chosen(d: int, **given) -> str:
    return neighbor_backend(1000, d, CUDA, **given)[0]


def test_auto_takes_faiss_where_its_verdict_is_good(faiss: Faiss, monkeypatch) -> None:
    assert (chosen(16), chosen(15)) == ("gemm", "reference")
    for state in ("failed", "crashed", "timed out", "running", "unchecked"):
        proves(monkeypatch, faiss=state)
        assert chosen(16) == "gemm"
    proves(monkeypatch, faiss="ok")
    assert (chosen(16), chosen(15)) == ("faiss", "reference")
    assert (chosen(16, task="joint"), chosen(16, metric="linf")) == ("reference", "reference")
    assert (chosen(16, k=2039), chosen(16, k=2040)) == ("faiss", "gemm")
    x = torch.randn(100, 16)
    assert knn(cuda(x), 3).backend == "faiss"
    monkeypatch.setenv("NCFAST_TRITON", "0")  # is about Triton alone
    assert chosen(16) == "faiss"
    monkeypatch.setenv("NCFAST_TRITON", "1")
    proves(monkeypatch, faiss="failed")
    assert (chosen(16), chosen(15)) == ("gemm", "triton")


def test_auto_takes_kernels_in_place_of_the_reference(monkeypatch) -> None:
    proves(monkeypatch, triton="ok")
    assert (chosen(3), chosen(40), chosen(40, task="count")) == ("triton", "gemm", "triton")


def test_auto_takes_what_was_measured_to_be_faster(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(dispatch, "_FASTEST", {(9, 0): "triton", (8, 9): "gemm"})
    proves(monkeypatch, triton="ok", faiss="ok")
    assert chosen(20) == "triton"
    proves(monkeypatch, faiss="ok")
    assert chosen(20) == "faiss"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert chosen(20) == "gemm"


def test_the_self_check_finds_a_broken_faiss(faiss: Faiss, monkeypatch) -> None:
    monkeypatch.setattr(self_check, "multiprocessors", lambda device: 4)
    assert self_check.check("faiss", torch.float64, CUDA) == ""
    for spoil in (nearest_missing, tf32):
        faiss.spoil = spoil
        with pytest.raises(Wrong, match="contradict"):
            self_check.check("faiss", torch.float64, CUDA)


def test_estimators_stay_on_the_device(faiss: Faiss, monkeypatch) -> None:
    proves(monkeypatch, faiss="ok")
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(400, 20, generator=generator, dtype=torch.float64)
    labels = torch.arange(400) % 4
    x[:, 0] += labels
    for backend, call in (
        ("faiss", lambda rows, classes: ncfast.entropy(rows, k=5)),
        ("faiss", lambda rows, classes: ncfast.label_information(rows, classes, k=5)),
        (
            "reference",
            lambda rows, classes: ncfast.mutual_information(rows[:, :9], rows[:, 9:11], k=5),
        ),
        (
            "reference",
            lambda rows, classes: ncfast.conditional_mutual_information(
                rows[:, :1], rows[:, 1:2], rows[:, 2:3], k=5
            ),
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many columns
            faiss.moved.clear()
            found = call(cuda(x), cuda(labels))
            largest = max(faiss.moved)
            expected = call(x, labels)
        assert (found.value, found.stderr) == (expected.value, expected.stderr)
        assert found.backend == backend
        assert largest <= 8  # numbers, and the sizes of the classes


def test_faiss_refuses_what_would_end_the_process(faiss: Faiss) -> None:
    x = torch.randn(2100, 20)
    with pytest.raises(ValueError, match="'faiss' cannot run here: FAISS finds at most 2039"):
        knn(cuda(x), 2040, backend="faiss")
    assert knn(cuda(x[:2060]), 2039, backend="faiss").certified == 1
    with pytest.raises(ValueError, match="'faiss' cannot run here: it supports only k nearest"):
        knn(cuda(x), 3, metric="linf", backend="faiss")


def test_the_engine_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "pip install 'ncfast[gpu-knn-cuda13]' for CUDA 13.0" in faiss_flat.why_not_on_gpu()
    assert "uninstall faiss-cpu" in faiss_flat.why_not_on_gpu()
    monkeypatch.setattr(faiss_flat, "INSTALLED", False)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert "pip install 'ncfast[gpu-knn]' for CUDA 12.6" in faiss_flat.why_not_on_gpu()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "no wheel for torch with no CUDA" in faiss_flat.why_not_on_gpu()
    assert not neighbor_backends()["faiss"].available
