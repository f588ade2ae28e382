import math

import numpy as np
import pytest
import torch
from samples import classes

import ncfast
from ncfast.backends.states import Layout, pack
from ncfast.tracking.stream import Average, Stream, parse

K, D = 4, 3
LAYOUT = Layout(K, D)


def batches(number, rows=9, seed=0, scale=1.0, drift=0.0):
    """Batches of few samples a class; some classes are absent from some."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(K, D, generator=generator, dtype=torch.float64)
    for step in range(number):
        labels = torch.randint(K, (rows,), generator=generator)
        noise = torch.randn(rows, D, generator=generator, dtype=torch.float64)
        yield means[labels] + drift * step + scale * noise, labels


def states(number, **options):
    found = [ncfast.class_moments(x, y, num_classes=K) for x, y in batches(number, **options)]
    return torch.stack([pack(moments) for moments in found]), found


def by_hand(moments, weights):
    """The formulas of the module, in NumPy loops over batches."""
    w, total = np.zeros(K), np.zeros((K, D))
    squares, freedom, norms, rows = np.zeros(K), np.zeros(K), 0.0, 0.0
    for part, a in zip(moments, weights, strict=True):
        n = part.counts.numpy()
        w += a * n
        total += a * n[:, None] * part.means.numpy()
        squares += a * part.within_ss.numpy()
        freedom += a * np.maximum(n - 1, 0)
        norms += a * part.norm_sum.item()
        rows += a * n.sum()
    known = freedom > 0
    variance = np.where(known, squares / np.where(known, freedom, 1), squares.sum() / freedom.sum())
    return (
        total / np.where(w > 0, w, 1)[:, None],
        (w * variance).sum() / w.sum(),
        variance,
        norms / rows,
    )


@pytest.mark.parametrize("text", ["window:5", "window:40", "ema:0.8", "ema:0.99"])
@pytest.mark.parametrize("block", [1, 7, 60])
def test_the_formulas(text, block):
    stream = parse(text)
    packed, moments = states(60)
    average = Average(stream, LAYOUT, torch.device("cpu"))
    found = torch.cat([average.update(part) for part in packed.split(block)])
    for step in (0, 3, 21, 59):
        ages = np.arange(step, -1, -1)
        weights = stream.decay**ages if stream.kind == "ema" else 1.0 * (ages < stream.length)
        means, trace, variance, norm = by_hand(moments[: step + 1], weights)
        state = average.layout.unpack(found[step])
        present = state.present.numpy()
        np.testing.assert_allclose(state.means.numpy()[present], means[present], rtol=1e-12)
        assert state.within_trace.item() == pytest.approx(trace, rel=1e-12)
        np.testing.assert_allclose(
            state.class_variances.numpy()[present], variance[present], rtol=1e-12
        )
        assert state.norm_mean.item() == pytest.approx(norm, rel=1e-12)
        largest = [part.norm_max.item() for part in moments[: step + 1]]
        if stream.kind == "window":
            assert state.norm_max.item() == max(largest[-stream.length :])
        else:
            assert state.norm_max.item() == pytest.approx(np.average(largest, weights=weights))


@pytest.mark.parametrize("text", ["window:20", "ema:0.9"])
def test_the_within_class_variance_is_unbiased(text):
    """Two samples a class and batch: the plain variance is half of what it should be."""
    scale, average = 0.3, Average(parse(text), LAYOUT, torch.device("cpu"))
    packed, moments = states(4000, rows=2 * K, scale=scale, drift=0.05)
    found = average.update(packed)[100::20]
    traces = [average.layout.unpack(row).within_trace.item() for row in found]
    truth = D * scale**2
    error = np.std(traces) / math.sqrt(len(traces))
    assert abs(np.mean(traces) - truth) < 4 * error + 0.01 * truth
    plain = np.mean([part.within_trace.item() for part in moments])
    assert plain < 0.7 * truth
    # merged with their drift, the same batches would look much wider
    merged = moments[100]
    for part in moments[101:120]:
        merged = merged.merge(part)
    assert merged.within_trace.item() > 1.2 * truth


def test_the_start_is_not_biased_towards_zero():
    packed, moments = states(1, rows=40)
    average = Average(parse("ema:0.999"), LAYOUT, torch.device("cpu"))
    state = average.layout.unpack(average.update(packed)[0])
    torch.testing.assert_close(state.means, moments[0].means, rtol=1e-12, atol=0)
    torch.testing.assert_close(state.norm_max, moments[0].norm_max)


def test_a_class_without_a_pair_takes_the_pooled_variance():
    x = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    packed = pack(ncfast.class_moments(x, torch.tensor([0, 0, 1]), num_classes=2)).unsqueeze(0)
    average = Average(parse("window:3"), Layout(2, 1), torch.device("cpu"))
    state = average.layout.unpack(average.update(packed)[0])
    assert state.class_variances.tolist() == [2.0, 2.0]


def test_batches_that_are_not_finite_leave_no_trace():
    packed, _ = states(12)
    bad = packed.clone()
    bad[5] = math.nan
    for text in ("window:4", "ema:0.9"):
        clean = Average(parse(text), LAYOUT, torch.device("cpu"))
        clean.update(packed[:5])
        dirty = Average(parse(text), LAYOUT, torch.device("cpu"))
        found = dirty.update(bad)
        assert found[5].isnan().all()
        assert not found[6:].isnan().any()


@pytest.mark.parametrize("text", ["", "batches", "window", "window:0", "ema:1", "ema:x", "batch:3"])
def test_bad_streams(text):
    with pytest.raises(ValueError, match="Expected argument `stream`"):
        parse(text)


def test_streams():
    assert parse("batch") == Stream("batch")
    assert parse("window:3") == Stream("window", length=3)
    feats, labels = classes()
    records = []
    with ncfast.Tracker(num_classes=5, stream="window:2", sinks=[records.append]) as tracker:
        for _ in range(3):
            tracker.step(feats=feats, labels=labels)
    values = [record["window/train/rnc1.max"] for record in records]
    assert values == pytest.approx(values[:1] * 3, rel=1e-12)
