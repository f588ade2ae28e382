"""Tests each kernel separately against its oracle."""

import pytest
import torch
import twins
from samples import collapsed

from ncfast.kernels import launch
from ncfast.kernels.configuration import MergeConfig, SegmentsConfig, merge_config, segments_config
from ncfast.kernels.merge import merge_segments
from ncfast.ops.grouping import build


def grouped(labels, num_classes, rows):
    plan = build(labels, num_classes)
    table = plan.segments(rows)
    return launch.Grouped(
        plan.permutation, table.segments, table.shared, table.slots, plan.counts, plan.poison
    )


@pytest.mark.parametrize(
    "config",
    [SegmentsConfig(4, 32, 32, 1), SegmentsConfig(2, 64, 130, 2), SegmentsConfig(8, 16, 64, 1)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_segments(config, dtype):
    feats, labels = collapsed(1e-3, count=250, dim=30, num_classes=4, dtype=dtype)
    labels[labels == 2] = 1
    rows = grouped(labels, 4, config.segment_rows)
    scratch, _ = launch.allocate(feats, rows, config)
    for part in scratch:
        part.fill_(torch.nan if part.is_floating_point() else 7)
    means, within = torch.full((4, 30), torch.nan).double(), torch.full((4,), torch.nan).double()
    launch.launch_segments(feats, rows, config, scratch, means, within)
    expected = twins.segments(feats, rows.permutation, rows.segments)

    slots = rows.segments[3]
    used = slots >= 0
    found = scratch.partial_mean[slots[used].long()]
    # the error of a mean is that of rounding the spread of the segment's rows
    spread = (expected.ss / rows.segments[1].clamp(min=1)).sqrt()[used, None]
    allowed = (1e-6 if dtype == torch.float32 else 1e-15) * spread
    away = (found - expected.mean[used]).abs()
    assert (away <= allowed + 1e-15 * expected.mean[used].abs()).all()
    totals = torch.stack(expected[1:])
    torch.testing.assert_close(scratch.totals.view(3, -1), totals, rtol=1e-6, atol=0)
    assert scratch.arrivals[: totals.shape[1]].eq(0).all()
    assert means[2].eq(0).all(), "an absent class has a segment of its own"


def test_merge():
    feats, labels = collapsed(1e-2, count=300, dim=30, num_classes=2)
    rows = grouped(labels, 3, 32)
    expected = twins.segments(feats, rows.permutation, rows.segments)
    partial = torch.full((rows.slots, 30), torch.nan).double()
    used = rows.segments[3] >= 0
    partial[rows.segments[3][used].long()] = expected.mean[used]
    means, within = torch.full((3, 30), torch.nan).double(), torch.full((3,), torch.nan).double()
    norms, number, classes = torch.full((2,), torch.nan).double(), *(t.shape[1] for t in rows[1:3])
    arrivals = torch.zeros(number, dtype=torch.int32)
    spreads = torch.full((classes, 2), torch.nan).double()
    merge_segments[(classes + 1, 2)](
        rows.segments, rows.shared, rows.counts, rows.poison, partial, torch.stack(expected[1:]),
        arrivals, spreads, means, within, norms, 15, number, classes, ALIGN=2,
        SEGMENTS=2, COLS=16, SIZE=4,
    )  # fmt: skip
    valid = rows.shared[:, rows.shared[0] >= 0]
    assert valid.shape[1] == 2
    assert sorted(arrivals.tolist())[-2:] == [2, 2], "both blocks of columns of both classes"
    mean, spread = twins.merge(rows.segments, valid, expected.mean, expected.ss)
    torch.testing.assert_close(means[:2], mean, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(within[:2], spread, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        norms, torch.stack((expected.norm_sum.sum(), expected.norm_max.amax()))
    )


@pytest.mark.parametrize("seed", range(6))
def test_any_configuration_gives_the_same(seed):
    """The launch configuration affects only the speed."""
    generator = torch.Generator().manual_seed(seed)
    count, dim, classes = (int(torch.randint(1, n, (), generator=generator)) for n in (200, 50, 9))
    feats, labels = collapsed(1e-2, count=count, dim=dim, num_classes=classes, seed=seed)
    chosen = segments_config(count, dim, classes, 4, 1 + 40 * (seed % 3))
    rows = grouped(labels, classes, chosen.segment_rows)
    one = launch.grouped_moments(
        feats, rows, chosen, merge_config(count, dim, classes, chosen.segment_rows)
    )
    other = SegmentsConfig(2, 16, 8, 1)
    rows = grouped(labels, classes, other.segment_rows)
    two = launch.grouped_moments(feats, rows, other, MergeConfig(2, 16, 1))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-9)
