"""The C++ backend against a float64 two-pass and against the reference."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from cluster_data import FEATURE_DTYPES, collapsed, features, two_pass
from torch import Tensor

import ncfast
from ncfast.backends import cpu, reference
from ncfast.backends._types import RawMoments

pytestmark = pytest.mark.skipif(cpu.extension is None, reason=f"no extension: {cpu.import_error}")
INSTRUCTION_SETS = cpu.extension.instruction_sets() if cpu.extension is not None else []


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    before = cpu.extension.instruction_set()
    assert cpu.extension.use_instruction_set(request.param)
    yield request.param
    cpu.extension.use_instruction_set(before)


class Poisoned:
    """Hands out tensors of NaN, so that an entry nobody writes fails."""

    def __init__(self, dtype: torch.dtype, value: float) -> None:
        self.dtype, self.value = dtype, value

    def new_empty(self, shape: tuple[int, ...] | int) -> Tensor:
        size = (shape,) if isinstance(shape, int) else shape
        return torch.full(size, self.value, dtype=self.dtype)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_FLOAT64", Poisoned(torch.float64, float("nan")))
    monkeypatch.setattr(cpu, "_INT64", Poisoned(torch.int64, -(10**9)))


def assert_matches(got: RawMoments, feats: Tensor, labels: Tensor, classes: int) -> None:
    tight = feats.dtype == torch.float64
    rtol = 1e-12 if tight else 1e-6
    means, within = two_pass(feats, labels, classes)
    norms = torch.linalg.vector_norm(feats.double(), dim=1)
    assert torch.equal(got.counts, torch.bincount(labels.long(), minlength=classes))
    scale = feats.double().abs().max().item()
    torch.testing.assert_close(got.means, means, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(got.within_ss, within, rtol=rtol, atol=1e-300)
    torch.testing.assert_close(got.norm_sum, norms.sum(), rtol=rtol, atol=0)
    torch.testing.assert_close(got.norm_max, norms.max(), rtol=rtol, atol=0)


@pytest.mark.parametrize("dim", [1, 3, 17, 64, 200, 513, 1000])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_odd_widths(instruction_set: str, dtype: torch.dtype, dim: int) -> None:
    feats, labels = features(500, dim, 7)
    feats = feats.to(dtype)
    assert_matches(cpu.class_moments(feats, labels, 7), feats, labels, 7)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 71, 72, 73, 75])
def test_one_class_of_every_remainder(instruction_set: str, rows: int) -> None:
    feats, labels = features(rows, 33, 1)
    feats = feats.float()
    assert_matches(cpu.class_moments(feats, labels, 1), feats, labels, 1)


@pytest.mark.parametrize(
    ("rows", "dim", "classes"),
    [
        (1500, 16384, 3),  # few units, wide rows: classes shared by many units
        (40000, 64, 10),
        (40000, 64, 1000),
        (3000, 40, 50000),  # more classes than rows
        (70000, 3, 2),
        (150000, 1, 300),  # more rows than one part of the sort
        (20, 8, 64),  # more classes than columns and rows
    ],
)
def test_shapes(rows: int, dim: int, classes: int) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.float()
    assert_matches(cpu.class_moments(feats, labels, classes), feats, labels, classes)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16]
)
def test_label_dtypes(dtype: torch.dtype) -> None:
    feats, labels = features(300, 20, 100)
    assert_matches(cpu.class_moments(feats, labels.to(dtype), 100), feats, labels, 100)


def test_strides() -> None:
    wide, labels = features(400, 90, 5)
    wide = wide.float()
    cases = {
        "every other row": (wide[::2], labels[::2]),
        "some columns": (wide[:, 7:58], labels),
        "one row again and again": (wide[:1].expand(400, 90), labels),
        "offset": (wide[3:, 1:], labels[3:]),
        "columns apart": (wide[:, ::3], labels),
        "transposed": (wide.T.contiguous().T, labels),
    }
    for name, (feats, label) in cases.items():
        got = cpu.class_moments(feats, label, 5)
        expected = cpu.class_moments(feats.contiguous(), label.contiguous(), 5)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=f"{name}: {a} and {b}")


@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("std", [10.0**-e for e in range(1, 8)])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_collapsed(instruction_set: str, dtype: torch.dtype, std: float, outliers: bool) -> None:
    feats, labels = collapsed(std, outliers)
    feats = feats.to(dtype)
    got = cpu.class_moments(feats, labels, 7).within_ss.sum()
    truth = two_pass(feats, labels, 7)[1].sum()
    # float64 at 1e-7: the truth itself carries the rounding of the stored means
    tolerance = 1e-12 if dtype == torch.float64 and std > 1e-4 else 1e-6
    torch.testing.assert_close(got, truth, rtol=tolerance, atol=0)


def test_far_outlier_and_drift() -> None:
    feats, labels = features(4000, 60, 3)
    feats = 1e-3 * feats
    feats[:3] += 1e4  # outliers of the first class rows seen
    feats += torch.linspace(0, 5, 4000, dtype=torch.float64)[:, None]  # sorted in time
    feats = feats.float()
    assert_matches(cpu.class_moments(feats, labels, 3), feats, labels, 3)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-22, 1e-18, 1e18, 1e30, 3e37])
def test_squares_out_of_the_range_of_float(instruction_set: str, scale: float) -> None:
    feats, labels = features(200, 40, 3)
    feats = (scale * feats).float()
    assert_matches(cpu.class_moments(feats, labels, 3), feats, labels, 3)


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_identical_rows_give_exact_zero(instruction_set: str, dtype: torch.dtype) -> None:
    feats, _ = features(5, 201, 5)
    labels = torch.arange(5).repeat(400)
    feats = (feats / 3).to(dtype)[labels]
    got = cpu.class_moments(feats, labels, 5)
    assert torch.equal(got.within_ss, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(got.means, feats[:5].double())


def test_absent_classes_are_zero() -> None:
    feats, labels = features(100, 9, 3)
    got = cpu.class_moments(feats, labels * 4 + 1, 12)
    absent = got.counts == 0
    assert absent.sum() == 9
    assert (got.means[absent] == 0).all()
    assert (got.within_ss[absent] == 0).all()


def test_imbalance() -> None:
    feats, _ = features(50000, 24, 4)
    labels = torch.zeros(50000, dtype=torch.int64)
    labels[[5, 40000]] = 1
    labels[-1] = 3
    feats = feats.float()
    assert_matches(cpu.class_moments(feats, labels, 4), feats, labels, 4)


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_label_out_of_range_makes_every_float_nan(bad: int) -> None:
    feats, labels = features(50, 6, 4)
    labels[17] = bad
    got = cpu.class_moments(feats, labels, 4)
    for name in ("means", "within_ss", "norm_sum", "norm_max"):
        assert getattr(got, name).isnan().all(), name
    assert torch.equal(got.counts, reference.class_moments(feats, labels, 4).counts)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_not_finite_stays_in_its_class(
    instruction_set: str, dtype: torch.dtype, value: float
) -> None:
    feats, labels = features(300, 70, 4)
    clean = cpu.class_moments(feats.to(dtype), labels, 4)
    row = 123
    feats[row, 41] = value
    got = cpu.class_moments(feats.to(dtype), labels, 4)
    others = torch.arange(4) != labels[row]
    assert not got.within_ss[labels[row]].isfinite()
    assert not got.means[labels[row], 41].isfinite()
    assert not got.norm_max.isfinite()
    assert not got.norm_sum.isfinite()
    assert torch.equal(got.within_ss[others], clean.within_ss[others])
    assert torch.equal(got.means[others], clean.means[others])


@pytest.mark.parametrize(("rows", "dim", "classes"), [(90000, 40, 11), (140000, 4, 3000)])
def test_same_bits_for_any_number_of_threads(rows: int, dim: int, classes: int) -> None:
    feats, labels = features(rows, dim, classes)
    feats = feats.float()
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3, 8, 2):
        torch.set_num_threads(threads)
        results.append(cpu.class_moments(feats, labels, classes))
    torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(a, b)


def _child(feats: Tensor, labels: Tensor, queue: object) -> None:
    queue.put(float(cpu.class_moments(feats, labels, 3).norm_sum))  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.timeout(60)
def test_a_forked_child_does_not_hang() -> None:
    feats, labels = features(60000, 50, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    expected = float(cpu.class_moments(feats, labels, 3).norm_sum)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_child, args=(feats, labels, queue)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert [queue.get() for _ in children] == [expected] * 3
    assert float(cpu.class_moments(feats, labels, 3).norm_sum) == expected
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_vectors", [1, 4, 7, 100])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_projections(instruction_set: str, dtype: torch.dtype, num_vectors: int) -> None:
    feats, labels = features(700, 83, 6)
    feats = feats.to(dtype)
    means = reference.class_moments(feats, labels, 6).means
    vectors = torch.randn(num_vectors, 83, generator=torch.Generator().manual_seed(3))
    got = cpu.projected_ss(feats, labels, means, vectors)
    expected = reference.projected_ss(feats, labels, means, vectors)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_projections_add_up_to_the_trace() -> None:
    feats, labels = features(3000, 12, 4)
    raw = cpu.class_moments(feats, labels, 4)
    sums = cpu.projected_ss(feats, labels, raw.means, torch.eye(12))
    torch.testing.assert_close(sums.sum(), raw.within_ss.sum(), rtol=1e-12, atol=0)
    labels[0] = 4
    assert cpu.projected_ss(feats, labels, raw.means, torch.eye(12)).isnan().all()


MEMORY_SCRIPT = """
import sys, torch
from pathlib import Path
from ncfast.backends import cpu

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024

rows, dim, classes = map(int, sys.argv[1:])
torch.set_num_threads(2)
feats = torch.ones(1, dim).expand(rows, dim)  # any N without the memory of N rows
labels = (torch.arange(rows, dtype=torch.int32) * 7) % classes
cpu.class_moments(feats[:1000], labels[:1000], classes)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
raw = cpu.class_moments(feats, labels, classes)
state = (raw.means.numel() + 2 * classes) * 8 / 2**20
print(status("VmHWM") - before - state)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("rows", "dim", "classes"), [(12_000_000, 2, 5), (6_000_000, 2, 200_000), (2000, 16384, 3)]
)
def test_extra_memory_is_bounded(rows: int, dim: int, classes: int) -> None:
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(rows), str(dim), str(classes)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 64  # MiB


def test_public_call_agrees_with_the_reference() -> None:
    feats, labels = features(1000, 30, 8)
    fast = ncfast.rnc1(feats, labels, num_classes=8)
    slow = ncfast.rnc1(feats, labels, num_classes=8, backend="reference")
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=0)
