"""Tests that every engine returns the bits of the float64 reference, on all kinds of input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ncfast.information.neighbors import (
    joint_radii_and_counts,
    knn,
    neighbor_backend,
    neighbor_backends,
    range_count,
)
from ncfast.ops import _raw

pytestmark = pytest.mark.usefixtures("poison")
ENGINES = [
    name
    for name, status in neighbor_backends().items()
    if status.available and name != "triton"  # tests/kernels
]
NATIVE = [name for name in ("direct", "tree") if name in ENGINES]
COUNTING = [name for name in ("direct", "tree", "scipy") if name in ENGINES]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
K = 4


def collapsed(std: float, dtype: torch.dtype, rows: int = 203, d: int = 6) -> tuple[Tensor, Tensor]:
    """Seven classes with means of about one and standard deviation ``std``."""
    generator = torch.Generator().manual_seed(int(1 / std) % 1000 + d)
    labels = torch.randint(0, 7, (rows,), generator=generator)
    means = torch.randn(7, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, d, generator=generator, dtype=torch.float64)
    return (means[labels] + std * noise).to(dtype), labels


def assert_all_equal(x: Tensor, backend: str, labels: Tensor | None = None, k: int = K) -> None:
    """Compare k-NN and, if the engine has them, joint radii and counts, in both metrics."""
    for metric in ("l2", "linf") if backend in COUNTING else ("l2",):
        got = knn(x, k, metric=metric, labels=labels, backend=backend)
        expected = knn(x, k, metric=metric, labels=labels, backend="reference")
        assert torch.equal(got.distances, expected.distances)
        assert torch.equal(got.indices, expected.indices)
        assert got.backend == backend
        if backend not in COUNTING:
            continue
        radii = expected.distances[:, -1]
        for strict in (True, False):
            counts = (
                range_count(x, radii, metric=metric, strict=strict, labels=labels, backend=name)
                for name in (backend, "reference")
            )
            assert torch.equal(*counts)
        assert_joint_equal(x, metric.replace("l2", "l2max"), backend, labels, k)


def assert_joint_equal(x: Tensor, metric: str, backend: str, labels: Tensor | None, k: int) -> None:
    half = (x.shape[1] + 1) // 2
    blocks = [x[:, :half], x[:, half:]] if x.shape[1] > 1 else [x, -x]
    for rectangle in (False, True):
        got, expected = (
            joint_radii_and_counts(
                blocks, k, metric=metric, rectangle=rectangle, labels=labels, backend=name
            )
            for name in (backend, "reference")
        )
        assert torch.equal(got.radii, expected.radii)
        assert torch.equal(got.ties, expected.ties)
        for mine, other in zip(
            got.counts + got.extents, expected.counts + expected.extents, strict=True
        ):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", range(9))
@pytest.mark.parametrize("backend", ENGINES)
def test_collapse(backend: str, exponent: int, dtype: torch.dtype) -> None:
    x, labels = collapsed(10.0**-exponent, dtype)
    assert_all_equal(x, backend)
    assert_all_equal(x, backend, labels)


@pytest.mark.parametrize("exponent", [0, 3, 5, 8])
@pytest.mark.parametrize("d", [1, 2, 5, 33])
def test_collapse_with_each_instruction_set(instruction_set: str, d: int, exponent: int) -> None:
    for backend in NATIVE:
        for dtype in (torch.float32, torch.float64):
            assert_all_equal(collapsed(10.0**-exponent, dtype, d=d)[0], backend)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("backend", ENGINES)
def test_ties_and_duplicates(backend: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    lattice = torch.randint(-2, 3, (150, 3), generator=generator).to(dtype)
    half_atoms = torch.randn(150, 2, generator=generator).to(dtype).relu()
    for x in (lattice, half_atoms, torch.zeros(40, 2, dtype=dtype), half_atoms[:, :1]):
        assert_all_equal(x, backend, torch.arange(len(x)) % 3)
        assert_all_equal(x, backend)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-12, 1e8, 1e30])
@pytest.mark.parametrize("backend", ENGINES)
def test_scale(backend: str, scale: float) -> None:
    x = scale * torch.randn(120, 3, generator=torch.Generator().manual_seed(2)).double()
    x[0] *= 1e6
    assert_all_equal(x.float(), backend)
    assert_all_equal(x, backend)
    assert_all_equal(1e100 * x, backend)


@pytest.mark.parametrize(("rows", "d", "k"), [(2, 1, 1), (17, 3, 16), (65, 7, 40), (90, 2000, 3)])
@pytest.mark.parametrize("backend", ENGINES)
def test_shapes(backend: str, rows: int, d: int, k: int) -> None:
    if backend in ("tree", "scipy"):
        d = min(d, 200)
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(3))
    assert_all_equal(x, backend, k=k)


@pytest.mark.skipif("tree" not in NATIVE, reason="no C++ extension")
def test_a_tree_of_many_leaves() -> None:
    x = torch.randn(1300, 5, generator=torch.Generator().manual_seed(8)).double()
    x[::7] = x[3]
    assert_all_equal(x, "tree")


@pytest.mark.parametrize("backend", [*ENGINES])
def test_a_default_device_is_not_that_of_the_results(backend: str) -> None:
    x = torch.randn(300, 6, dtype=torch.float64)
    expected = knn(x, K, backend=backend)
    with torch.device("meta"):
        found = knn(x, K, backend=backend)
    assert torch.equal(found.distances, expected.distances)
    assert torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize("backend", ENGINES)
def test_strides_and_gradients(backend: str) -> None:
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(4))
    for view in (x.T, x[::2, ::3].T, x.flip(1).T.requires_grad_()):
        assert_all_equal(view, backend)


@pytest.mark.parametrize("backend", ENGINES)
def test_classes_too_small(backend: str) -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(5))
    labels = torch.cat([torch.arange(12), torch.tensor([20] * 3 + [-7] * 15)])
    assert_all_equal(x, backend, labels.to(torch.int16))


@pytest.mark.parametrize("backend", NATIVE)
def test_infinite_and_zero_radii(backend: str) -> None:
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(6))
    radii = torch.tensor([torch.inf, 0.0, 1e-170, 1e200, -1.0]).double().repeat(20)
    for strict in (True, False):
        counts = (range_count(x, radii, strict=strict, backend=b) for b in (backend, "reference"))
        assert torch.equal(*counts)


@pytest.mark.skipif("direct" not in NATIVE, reason="no C++ extension")
@pytest.mark.parametrize("rows", [31, 32, 33, 255, 257, 1000])
@pytest.mark.parametrize("kind", ["normal", "collapsed", "lattice", "copies"])
def test_each_pair_is_scored_for_both_of_its_rows(
    instruction_set: str, kind: str, rows: int
) -> None:
    """Blocks of panels meet in rounds: a pair that met twice or never would be seen here."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 35, generator=generator, dtype=torch.float64)
    if kind == "collapsed":
        x = 1 + 1e-6 * x
    elif kind == "lattice":
        x = x.clamp(0, 0.1).round(decimals=1)
    elif kind == "copies":
        x = x[torch.randint(0, rows // 2, (rows,), generator=generator)]
    for metric in ("l2", "linf"):
        got = knn(x, K, metric=metric, backend="direct")
        expected = knn(x, K, metric=metric, backend="reference")
        assert torch.equal(got.distances, expected.distances)
        assert torch.equal(got.indices, expected.indices)


@pytest.mark.skipif("direct" not in NATIVE, reason="no C++ extension")
def test_more_candidates_than_memory_for_them() -> None:
    """200 neighbours of 9,000 rows: the candidates of all rows at once would take 70 MB."""
    x = torch.randn(9000, 40, generator=torch.Generator().manual_seed(12))
    got, expected = (knn(x, 200, backend=name) for name in ("direct", "tree"))
    assert torch.equal(got.distances, expected.distances)
    assert torch.equal(got.indices, expected.indices)


@pytest.mark.parametrize("backend", NATIVE)
def test_threads_do_not_matter(backend: str) -> None:
    x = torch.randn(3000, 40, generator=torch.Generator().manual_seed(7))
    x[::2] = 1 + 1e-7 * x[::2]  # float settles some rows and not others
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            found.append(knn(x.double(), K, backend=backend))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(found[0].indices, other.indices)
        assert torch.equal(found[0].distances, other.distances)
        assert found[0].certified == other.certified


@pytest.mark.skipif(_raw.extension is None, reason=f"no extension: {_raw.import_error}")
def test_float_settles_healthy_rows_and_says_where_it_cannot() -> None:
    x, labels = collapsed(1e-8, torch.float64, rows=2000)
    assert knn(torch.randn(500, 9), K, backend="direct").certified == 1
    assert knn(x, K, backend="direct").certified == 0
    assert knn(x, K, labels=labels, backend="direct").certified == 1


def test_the_certificate_sees_collapse() -> None:
    generator = torch.Generator().manual_seed(8)
    healthy = torch.randn(1000, 12, generator=generator)
    assert knn(healthy, K, backend="gemm").certified == 1
    collapsed_rows, _ = collapsed(1e-6, torch.float32, rows=1000)
    assert knn(collapsed_rows, K, backend="gemm").certified < 0.01


def test_engines_name_what_they_cannot_do() -> None:
    x = torch.randn(20, 3)
    with pytest.raises(ValueError, match="'gemm' cannot run here: it supports only k nearest"):
        range_count(x, x[:, 0].abs(), backend="gemm")
    with pytest.raises(ValueError, match="'gemm' cannot run here: it supports only k nearest"):
        knn(x, 2, metric="linf", backend="gemm")
    with pytest.raises(ValueError, match="'triton' cannot run here: the rows are on cpu"):
        knn(x, 2, backend="triton")
    with pytest.raises(ValueError, match="`task` to be one of"):
        neighbor_backend(10, 2, task="sort")


def test_auto_takes_what_it_says() -> None:
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(9))
    assert knn(x, K).backend == neighbor_backend(300, 2)[0]
    wide = torch.randn(300, 40, generator=torch.Generator().manual_seed(9))
    joint = joint_radii_and_counts([wide, wide], K)
    assert joint.backend == neighbor_backend(300, 80, task="joint")[0]


@pytest.mark.parametrize(("d", "task"), [(2, "knn"), (40, "knn"), (40, "joint"), (10, "count")])
def test_every_choice_without_the_extension_works(
    monkeypatch: pytest.MonkeyPatch, d: int, task: str
) -> None:
    monkeypatch.setattr(_raw, "extension", None)
    name, _ = neighbor_backend(200, d, task=task)
    assert name not in ("direct", "tree")
    x = torch.randn(200, d, generator=torch.Generator().manual_seed(10))
    x[100:] = x[:1] + 1e-6 * x[100:]  # the certificate fails: these rows are searched again
    if task == "knn":
        assert torch.equal(knn(x, K).indices, knn(x, K, backend="reference").indices)
    elif task == "joint":
        assert_joint_equal(x, "l2max", name, None, K)
    else:
        radii = x[:, 0].abs()
        assert torch.equal(range_count(x, radii), range_count(x, radii, backend="reference"))


REPEATS = ["constant", "half zeros", 2, 3, 4, 6]


def repeated(kind, rows: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows + d)
    if kind == "constant":
        return torch.ones(rows, d, dtype=torch.float64)
    if kind == "half zeros":
        return torch.randn(rows, d, generator=generator, dtype=torch.float64).clamp(min=0)
    return torch.randint(kind, (rows, d), generator=generator).double()


@pytest.mark.skipif("tree" not in ENGINES, reason="no extension")
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("kind", REPEATS)
def test_repeated_rows_come_in_the_order_of_their_numbers(kind, d):
    """Ties are in order of row number, in the tree as in brute force."""
    x = repeated(kind, 700, d)
    labels = torch.arange(700) % 3
    for k in (1, 5, 20):
        assert_all_equal(x, "tree", k=k)
    assert_all_equal(x, "tree", labels)


@pytest.mark.skipif("tree" not in ENGINES, reason="no extension")
@pytest.mark.parametrize("kind", REPEATS)
def test_many_repeated_rows(kind):
    """A search that opened all boxes at the same distance would take minutes."""
    x = repeated(kind, 100_000, 1)
    found = knn(x, 5, backend="tree")
    # The neighbours of the last row with a common value are the first rows with it.
    value, count = x.squeeze(1).unique(return_counts=True)
    most = value[count.argmax()]
    members = (x.squeeze(1) == most).nonzero().squeeze(1)
    assert torch.equal(found.indices[members[-1]], members[:5])
    assert found.distances[members].eq(0).all()
    joint = joint_radii_and_counts([x, x], 5, backend="tree")
    assert torch.equal(joint.ties[members], (count.max() - 1).expand(len(members)))


@pytest.mark.skipif(not neighbor_backends()["tree"].available, reason="needs the C++ extension")
def test_rows_that_repeat_are_told_from_rows_that_agree_in_some_columns():
    """The test of copies looks at a few columns first."""
    same = torch.zeros(600, 64, dtype=torch.float64)
    same[:, 1] = torch.arange(600)
    assert knn(same, 5).backend == "direct"
    copies = torch.randn(600, 64, dtype=torch.float64)[torch.arange(600) % 100]
    assert knn(copies, 5).backend == "tree"


@pytest.mark.skipif(not neighbor_backends()["tree"].available, reason="needs the C++ extension")
def test_rows_that_repeat_are_searched_by_tree_in_many_columns():
    coins = (torch.arange(4000).unsqueeze(1) >> torch.arange(12)) % 2  # all rows differ
    twice = coins[torch.arange(4000) % 1000].double()
    assert knn(coins.double(), 5).backend == "direct"
    found, plain = knn(twice, 5), knn(twice, 5, backend="direct")
    assert found.backend == "tree"
    assert torch.equal(found.indices, plain.indices)
    assert joint_radii_and_counts((twice[:, :6], twice[:, 6:]), 5).backend == "tree"
