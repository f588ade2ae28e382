"""How the kernels group rows: as the reference does, and in segments that hold every row once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncfast._validate import LABEL_DTYPES
from ncfast.kernels.grouping import present
from ncfast.ops.grouping import build, build_on_device, narrow_dtype


@pytest.mark.parametrize("num_classes", [1, 5, 256, 257, 2000])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_a_plan_equals_that_of_the_reference(dtype, num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    top = min(num_classes - 1, torch.iinfo(dtype).max)
    labels = torch.randint(top + 1, (700,), generator=generator).to(dtype)[::2]
    found, expected = build_on_device(labels, num_classes), build(labels, num_classes)
    for name in ("counts", "permutation", "offsets", "poison"):
        value = getattr(found, name)
        assert value.dtype == getattr(expected, name).dtype, name
        assert torch.equal(value, getattr(expected, name)), name


@pytest.mark.parametrize("bad", [-1, 3, 256, 2**40, -(2**40)])
def test_labels_out_of_range(bad):
    labels = torch.arange(600) % 3
    labels[311] = bad
    found, expected = build_on_device(labels, 3), build(labels, 3)
    assert found.poison.isnan()
    assert torch.equal(found.counts, expected.counts)
    assert torch.equal(found.permutation, expected.permutation)


LABELS = st.lists(st.integers(0, 11), min_size=1, max_size=80)


@settings(max_examples=25, deadline=None)
@given(LABELS, st.integers(1, 30), st.sampled_from([1, 2, 4, 8, 64]))
def test_segments_cover_every_row_once(labels, num_classes, rows):
    num_classes = max(num_classes, max(labels) + 1)
    plan = build(torch.tensor(labels), num_classes)
    table = plan.segments(rows)
    assert table.segments.shape == (4, len(labels) // rows + num_classes)
    covered, slots = [], []
    for start, length, owner, slot in table.segments.T.tolist():
        assert 0 <= length <= rows
        members = plan.permutation[start : start + length].tolist()
        covered += members
        assert all(labels[row] == owner for row in members)
        if owner < 0:
            assert (length, slot) == (0, -1)
        elif plan.counts[owner]:
            assert bool(plan.counts[owner] <= rows) == (slot < 0)
        slots += [slot] if slot >= 0 else []
    assert sorted(covered) == list(range(len(labels)))
    owners = set(table.segments[2].tolist())
    assert owners >= set(range(num_classes)), "absent classes own a segment too"
    assert len(set(slots)) == len(slots)
    assert max(slots, default=-1) < table.slots


@settings(max_examples=25, deadline=None)
@given(LABELS, st.integers(12, 30), st.sampled_from([1, 2, 4, 64]))
def test_classes_of_several_segments(labels, num_classes, rows):
    plan = build(torch.tensor(labels), num_classes)
    table = plan.segments(rows)
    found = [column for column in table.shared.T.tolist() if column[0] >= 0]
    several = [c for c in range(num_classes) if plan.counts[c] > rows]
    assert [column[0] for column in found] == several, "each of them once, in order"
    for owner, first, number, slot in found:
        part = table.segments[:, first : first + number]
        assert part[2].eq(owner).all()
        assert part[1].sum() == plan.counts[owner]
        assert part[3].tolist() == list(range(slot, slot + number))


def present_of(labels, num_classes, rows, **options):
    labels = torch.tensor(labels)
    narrow = narrow_dtype(num_classes + 1)
    mask = options.get("mask")
    return present(labels, mask, options.get("ignore"), num_classes, rows, narrow)


@settings(max_examples=25, deadline=None)
@given(LABELS, st.sampled_from([12, 255, 256, 1024, 1025, 70_000]), st.sampled_from([1, 2, 4, 64]))
def test_segments_of_a_batch_cover_every_row_that_counts_once(labels, num_classes, rows):
    """Label 11 is left out."""
    found = present_of(labels, num_classes, rows, ignore=11)
    count = len(labels)
    bound = count // rows + (num_classes if num_classes <= 1024 else count)
    assert found.segments.shape == (5, bound)
    assert found.skipped == labels.count(11)
    assert found.nan_if_invalid == 0
    covered, members = [], {}
    for number, (start, length, owner, own, held) in enumerate(found.segments.T.tolist()):
        if length == 0:
            assert held == 0
            continue
        run = found.permutation[start : start + length].tolist()
        assert length <= rows
        assert all(labels[row] == owner for row in run)
        assert own == number
        if held:
            members[owner] = number
            assert held == labels.count(owner)
        covered += run
    assert sorted(covered) == [row for row, label in enumerate(labels) if label != 11]
    assert set(members) == set(labels) - {11}
    assert found.leaders.tolist() == [members.get(label, -1) for label in labels]


@pytest.mark.parametrize("num_classes", [9, 3000])
def test_the_cuts_do_not_depend_on_rows_left_out(num_classes):
    labels = [3, 1, 3, 8, 3, 8, 1, 3]
    mask = torch.tensor([label != 8 for label in labels]).view(torch.uint8)
    whole = present_of(labels, num_classes, 2, mask=mask)
    part = present_of([label for label in labels if label != 8], num_classes, 2)
    used = part.segments[1] > 0
    assert torch.equal(whole.segments[:, : len(used)][:, used], part.segments[:, used])
    assert (whole.segments[1] > 0).sum() == used.sum()


def test_a_mask_with_gaps_hides_labels_out_of_range():
    labels, mask = [0, 7, 1, -5], torch.tensor([1, 9, 0, 9, 1, 9, 0, 9], dtype=torch.uint8)[::2]
    found = present_of(labels, 2, 4, mask=mask)
    assert (found.skipped, found.nan_if_invalid) == (2, 0)
    assert present_of(labels, 2, 4).nan_if_invalid.isnan()
