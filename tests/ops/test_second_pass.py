"""The kernels of the second passes against their plain forms."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import ncfast
from ncfast.ops import _raw
from ncfast.ops.decisions import decisions, own_distances
from ncfast.ops.margins import Classes, margins
from ncfast.ops.pairs import sweep
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER

needs_extension = pytest.mark.skipif(_raw.extension is None, reason=ncfast.backends()["cpu"].reason)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def sample(count, dim, number, spread=0.5, dtype=torch.float32, seed=0, offset=3.0):
    """Features, labels and moments; the last class is absent."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(number, dim, generator=generator, dtype=torch.float64) + offset
    labels = torch.randint(max(1, number - 1), (count,), generator=generator)
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    feats = (centres[labels] + spread * noise).to(dtype)
    return feats, labels, ncfast.class_moments(feats, labels, num_classes=number)


def engine(backend, feats):
    """All operations that follow the moments, as ``backend`` runs them for such features."""
    usable = backend != "reference" and _raw.readable(feats)
    return SimpleNamespace(
        scatter=SCATTER.select(backend, feats),
        projected_ss=PROJECTION.select(backend, feats),
        decisions=partial(decisions, backend),
        margins=partial(margins, backend),
        sweep=partial(sweep, backend),
        own_distances=own_distances if usable else None,
    )


def both(feats):
    return engine("auto", feats), engine("reference", feats)


def close(found, expected, rel):
    size = float(expected.abs().nan_to_num(0, 0, 0).max())
    torch.testing.assert_close(found, expected, rtol=rel, atol=rel * size, equal_nan=True)


@needs_extension
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-7])
@pytest.mark.parametrize(
    ("count", "dim", "number"), [(1, 1, 1), (700, 37, 5), (90, 130, 200), (1100, 16, 3)]
)
def test_scatter_and_distances(instruction_set, count, dim, number, spread):
    for dtype in DTYPES:
        feats, labels, moments = sample(count, dim, number, spread, dtype)
        fast, plain = both(feats)
        found = fast.scatter(feats, labels, moments.means)
        close(found, plain.scatter(feats, labels, moments.means), 1e-12)
        assert torch.equal(found, found.T)
        residual = feats.double() - moments.means[labels]
        distances = fast.own_distances(feats, labels, moments.means)
        close(distances, torch.linalg.vector_norm(residual, dim=1), 1e-12)


@needs_extension
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-7])
@pytest.mark.parametrize(
    ("count", "dim", "number", "rel"),
    [(10, 1, 2, 1e-9), (900, 33, 100, 1e-9), (200, 70, 150, 1e-9), (3000, 40, 600, 1e-6)],
)
def test_margins(instruction_set, count, dim, number, rel, spread):
    feats, labels, moments = sample(count, dim, number, spread)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(number, dim, generator=generator, dtype=torch.float64)
    rows = moments.centred_means + 0.3 * noise
    rows[0] = rows[-1]  # never told apart
    rows = rows - rows.mean(0)
    bias = torch.randn(number, generator=generator, dtype=torch.float64)
    classes = Classes(moments.means, moments.class_variances, moments.counts)
    shares = moments.counts.double() / moments.total
    fast, plain = both(feats)
    found = fast.margins(classes, rows, bias, feats, labels)
    expected = plain.margins(classes, rows, bias, feats, labels)
    for name in ("projected", "trace"):
        close(shares @ getattr(found, name), shares @ getattr(expected, name), rel)
        close(getattr(found, name), getattr(expected, name), 10 * rel)
    assert (found.radius <= expected.radius * (1 + 1e-12)).all()
    # where the boundary is far, little of the distance is given away
    far = expected.radius > 0.2
    assert (found.radius >= 0.98 * expected.radius.clamp(max=1e300))[far].all()
    without = fast.margins(classes, rows, bias)
    assert without.projected.isnan().all()
    assert torch.equal(without.trace, found.trace)


@needs_extension
@pytest.mark.parametrize(("number", "dim"), [(2, 3), (5, 1), (70, 9), (150, 200)])
@pytest.mark.parametrize("gap", [1.0, 1e-6])
def test_pairs(instruction_set, number, dim, gap):
    _, _, moments = sample(4 * number, dim, number)
    moments.means[0] = moments.means[1] * (1 + gap)
    fast, plain = both(moments.means)
    centred = moments.centred_means
    norms = torch.linalg.vector_norm(centred, dim=1)
    names = ["angle", "cdnv", "coherence", "distance", "log", "riesz"]
    given = (centred, norms, moments.class_variances, moments.present, names)
    found, expected = fast.sweep(*given), plain.sweep(*given)
    torch.testing.assert_close(
        found.nearest, expected.nearest, rtol=1e-14 / gap + 1e-9, atol=0, equal_nan=True
    )
    for name in set(names) - {"coherence"}:
        torch.testing.assert_close(
            found.statistics[name].mean,
            expected.statistics[name].mean,
            rtol=1e-9,
            atol=1e-12,
            equal_nan=True,
        )
    for name in () if number == 2 else ("cdnv", "coherence"):  # one class present: no pair
        close(found.statistics[name].maximum, expected.statistics[name].maximum, 1e-9)
    for name in () if number == 2 else ("distance", "log", "riesz"):
        close(found.statistics[name].variance, expected.statistics[name].variance, 1e-9)


@needs_extension
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_extension)])
def test_coinciding_means_without_spread_have_no_largest_cdnv(backend):
    feats, labels = torch.ones(8, 6, dtype=torch.float64), torch.arange(8) % 4
    found = ncfast.collapse_metrics(feats, labels, metrics="nc1", num_classes=4, backend=backend)
    assert found["nc1.cdnv"].isnan()
    assert found["nc1.cdnv_max"].isnan()


def test_the_variance_of_nearly_equal_distances():
    number = 40
    etf = torch.eye(number, dtype=torch.float64) - 1 / number
    noise = torch.randn(number, number, generator=torch.Generator().manual_seed(0)).double()
    moments = ncfast.class_moments(etf + 1e-9 * noise, torch.arange(number))
    fast, plain = (
        ncfast.collapse_metrics(moments, metrics="nc2", backend=name)
        for name in ("auto", "reference")
    )
    for name in ("nc2.distance_var", "nc2.log_energy_var", "nc2.riesz_energy_var"):
        assert float(fast[name]) > 0
        close(fast[name], plain[name], 1e-5)


@needs_extension
def test_any_number_of_threads_gives_the_same_bits():
    feats, labels, moments = sample(3000, 40, 600)
    rows = moments.means - moments.means.mean(0)
    classes = Classes(moments.means, moments.class_variances, moments.counts)
    norms = torch.linalg.vector_norm(rows, dim=1)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        fast, _ = both(feats)
        swept = fast.sweep(rows, norms, moments.class_variances, moments.present, ["log"])
        results.append(
            [
                fast.scatter(feats, labels, moments.means),
                *fast.margins(classes, rows, None, feats, labels),
                *swept.statistics["log"][:3],
                swept.nearest,
            ]
        )
    torch.set_num_threads(1)
    assert all(map(torch.equal, *results))


def test_other_layouts_take_the_plain_forms():
    feats, labels, moments = sample(60, 8, 3)
    columns = feats.T.contiguous().T
    every_second = torch.stack([feats, feats], 1)[:, 0]
    for view in (columns, every_second):
        found = engine("auto", view).scatter(view, labels, moments.means)
        close(found, engine("reference", feats).scatter(feats, labels, moments.means), 1e-12)
    assert SCATTER.select("auto", columns) is SCATTER.reference
