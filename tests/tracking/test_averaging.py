import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import classes
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.ops import _raw
from ncfast.ops.averages import CpuAverage
from ncfast.ops.states import Layout, pack
from ncfast.tracking.averaging import Averaging, TorchAverage, parse_averaging, running_average

CPU = torch.device("cpu")
K, D = 4, 3
LAYOUT = Layout(K, D)
ENGINES = ["torch", "cpu"]


def average(text, layout=LAYOUT, engine="cpu"):
    if engine == "torch":
        return TorchAverage(parse_averaging(text), layout, CPU)
    found = running_average(parse_averaging(text), layout, CPU)
    assert isinstance(found, CpuAverage)
    return found


def in_blocks(engine, packed, block):
    packed = packed.clone()
    for part in packed.split(block):
        assert engine.update(part) is part
    return packed


def batches(number, layout, *, seed=0, offset=0.0, spread=1.0, bad=()):
    """Packed moments of batches of few samples a class, none of some classes."""
    generator = np.random.default_rng(seed)
    k, d = layout.classes, layout.dim
    counts = generator.integers(0, 4, (number, k))
    counts[:, 0] += 2
    means = offset + spread * generator.standard_normal((number, k, d)) * (counts > 0)[..., None]
    within = spread**2 * generator.chisquare(3, (number, k)) * (counts > 1)
    norms = abs(offset) + generator.random((number, 2))
    packed = torch.zeros(number, layout.size, dtype=torch.float64)
    parts = layout.split(packed)
    for part, value in zip(parts, (counts, means, within, norms[:, 0], norms[:, 1]), strict=True):
        part.copy_(torch.from_numpy(value))
    packed[list(bad)] = math.nan
    return packed


def definition(stream, layout, packed, step, bad=()):
    """The formulas of `ncfast.tracking.averaging` with more digits than a double has.

    Returns:
        Counts, means, squares, sum of norms and largest norm; the scale of the errors of the means.
    """
    counts, means, within, norm_sum, norm_max = (
        part.numpy().astype(np.longdouble) for part in layout.split(packed[: step + 1])
    )
    age = np.arange(step, -1, -1)
    a = np.where(age < stream.length, 1, np.longdouble(0))
    if stream.kind == "ema":
        a = np.longdouble(stream.decay) ** age
    used = np.flatnonzero(a * ~np.isin(np.arange(step + 1), bad))
    a, n, mu = a[used], counts[used], means[used]
    w, freedom = a @ n, a @ np.maximum(n - 1, 0)
    squares = a @ within[used]
    known, present = freedom > 0, np.where(w > 0, w, 1)
    variance = np.where(known, squares / np.where(known, freedom, 1), squares.sum() / freedom.sum())
    largest = norm_max[used].max() if stream.kind == "window" else a @ norm_max[used] / a.sum()
    mean = np.einsum("t,tk,tkd->kd", a, n, mu) / present[:, None]
    scale = np.einsum("t,tk,tkd->kd", a, n, abs(mu)) / present[:, None]
    return (w, mean, w * variance, a @ norm_sum[used], largest), scale


def check(stream, layout, packed, found, step, bad=()):
    (w, mean, squares, norms, largest), scale = definition(stream, layout, packed, step, bad)
    weights, means, within, norm_sum, norm_max = (
        part[step].numpy() for part in layout._replace(integer_counts=False).split(found)
    )
    np.testing.assert_allclose(weights / 2.0**60, w.astype(float), rtol=1e-12)
    assert (abs(means - mean) <= 1e-12 * scale).all()
    np.testing.assert_allclose(within / 2.0**60, squares.astype(float), rtol=1e-12)
    assert norm_sum / 2.0**60 == pytest.approx(float(norms), rel=1e-12)
    assert norm_max == pytest.approx(float(largest), rel=1e-12)


TEXTS = ["window:1", "window:2", "window:3", "window:100", "window:1000"]
TEXTS += ["ema:0.5", "ema:0.99", "ema:0.9999"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("block", [1, 5, 128, 300])
def test_the_formulas(engine, text, block):
    layout = LAYOUT if block < 128 else Layout(7, 2)
    packed = batches(320, layout, seed=block)
    found = in_blocks(average(text, layout, engine), packed, block)
    for step in (0, 1, 2, 7, 15, 16, 17, 99, 100, 127, 128, 200, 301, 319):
        check(parse_averaging(text), layout, packed, found, step)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", ["window:1", "window:4", "ema:0.9"])
def test_batches_that_are_not_finite_leave_no_trace(engine, text):
    bad = [0, 5, 6, 20]
    packed = batches(40, LAYOUT, bad=bad)
    packed[30, -1] = math.inf
    found = in_blocks(average(text, engine=engine), packed, 7)
    bad.append(30)
    assert found.isnan().all(1).nonzero().flatten().tolist() == bad
    assert not found[[i for i in range(40) if i not in bad]].isnan().any()
    for step in (1, 7, 8, 29, 31, 39):
        check(parse_averaging(text), LAYOUT, packed, found, step, bad)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", ["window:50", "ema:0.9999"])
def test_a_large_offset_costs_no_more_than_its_rounding(engine, text):
    layout = Layout(3, 20)
    packed = batches(400, layout, offset=1e6, spread=1e-4)
    found = in_blocks(average(text, layout, engine), packed, 128)
    for step in (49, 200, 399):
        check(parse_averaging(text), layout, packed, found, step)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_has_left_a_window_is_gone(engine):
    packed = batches(90, LAYOUT)
    packed[20] = batches(1, LAYOUT, offset=1e15, spread=1e15)[0]
    found = in_blocks(average("window:20", engine=engine), packed, 16)
    for step in (19, 20, 39, 40, 60):
        check(parse_averaging("window:20"), LAYOUT, packed, found, step)


@settings(deadline=None)
@given(
    text=st.sampled_from(["window:1", "window:6", "window:17", "ema:0.7"]),
    sizes=st.lists(st.integers(1, 40), max_size=6),
    seed=st.integers(0, 1000),
)
def test_how_batches_come_in_blocks_does_not_matter(text, sizes, seed):
    packed = batches(sum(sizes) + 3, LAYOUT, seed=seed, bad=[seed % 3])
    whole = average(text).update(packed.clone())
    engine, parts = average(text), packed.clone()
    for part in parts.split([*sizes, 3]):
        engine.update(part)
    assert torch.equal(parts.view(torch.int64), whole.view(torch.int64))
    reference = average(text, engine="torch").update(packed)
    torch.testing.assert_close(parts, reference, rtol=1e-11, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_may_come_as_doubles(engine):
    packed, layout = batches(30, LAYOUT), LAYOUT._replace(integer_counts=False)
    doubles = packed.clone()
    doubles[:, :K] = packed[:, :K].view(torch.int64).double()
    found = average("window:3", layout, engine).update(doubles)
    assert torch.equal(found, average("window:3", engine=engine).update(packed))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_class_without_a_pair_takes_the_pooled_variance(engine):
    x = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    packed = pack(ncfast.class_moments(x, torch.tensor([0, 0, 1]), num_classes=2)).unsqueeze(0)
    pooled = average("window:3", Layout(2, 1), engine)
    state = ncfast.ClassMoments(*pooled.layout.split(pooled.update(packed)[0]))
    assert state.class_variances.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_class_long_unseen_is_absent_and_may_return(engine):
    packed = batches(1500, LAYOUT)
    counts, _, within, *_ = LAYOUT.split(packed)
    counts[10:1400, 1] = 0
    within[10:1400, 1] = 0
    ema = average("ema:0.5", engine=engine)
    found = ema.update(packed)
    weights = ema.layout.split(found)[0][:, 1]
    assert (weights[:60] > 0).all()
    assert (weights[80:1400] == 0).all()
    assert weights[1499] > 0
    assert found.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", ["window:20", "ema:0.9"])
def test_the_within_class_variance_is_unbiased(engine, text):
    """Two samples a class and batch: the plain variance is half of what it should be."""
    generator, scale, parts = torch.Generator().manual_seed(0), 0.3, []
    for step in range(3000):
        labels = torch.randint(K, (2 * K,), generator=generator)
        noise = torch.randn(2 * K, D, generator=generator, dtype=torch.float64)
        parts.append(ncfast.class_moments(0.05 * step + scale * noise, labels, num_classes=K))
    pooled = average(text, engine=engine)
    found = pooled.update(torch.stack([pack(part) for part in parts]))[100::20]
    traces = [ncfast.ClassMoments(*pooled.layout.split(row)).within_trace.item() for row in found]
    truth = D * scale**2
    error = np.std(traces) / math.sqrt(len(traces))
    assert abs(np.mean(traces) - truth) < 4 * error + 0.01 * truth
    assert np.mean([part.within_trace.item() for part in parts]) < 0.7 * truth
    # merged with their drift, the same batches would look much wider
    merged = parts[100]
    for part in parts[101:120]:
        merged = merged.merge(part)
    assert merged.within_trace.item() > 1.2 * truth


@pytest.mark.parametrize("engine", ENGINES)
def test_the_start_is_not_biased_towards_zero(engine):
    packed = batches(1, LAYOUT)
    ema = average("ema:0.999", engine=engine)
    state = ncfast.ClassMoments(*ema.layout.split(ema.update(packed.clone())[0]))
    moments = ncfast.ClassMoments(*LAYOUT.split(packed[0]))
    torch.testing.assert_close(state.means, moments.means, rtol=1e-12, atol=0)
    torch.testing.assert_close(state.norm_max, moments.norm_max)


def test_the_engine_is_one_that_can_run(monkeypatch):
    with FakeTensorMode():
        assert isinstance(running_average(parse_averaging("ema:0.9"), LAYOUT, CPU), TorchAverage)
    meta = torch.device("meta")
    assert isinstance(running_average(parse_averaging("window:3"), LAYOUT, meta), TorchAverage)
    monkeypatch.setattr(_raw, "extension", None)
    assert isinstance(running_average(parse_averaging("window:3"), LAYOUT, CPU), TorchAverage)


@pytest.mark.parametrize("text", ["", "batches", "window", "window:0", "ema:1", "ema:x", "batch:3"])
def test_bad_streams(text):
    with pytest.raises(ValueError, match="Expected argument `stream`"):
        parse_averaging(text)


def test_streams():
    assert parse_averaging("batch") == Averaging("batch")
    assert parse_averaging("window:3") == Averaging("window", length=3)
    feats, labels = classes()
    records = []
    with ncfast.Tracker(num_classes=5, stream="window:2", sinks=[records.append]) as tracker:
        for _ in range(3):
            tracker.step(feats=feats, labels=labels)
    values = [record["window/train/rnc1.max"] for record in records]
    assert values == pytest.approx(values[:1] * 3, rel=1e-12)
