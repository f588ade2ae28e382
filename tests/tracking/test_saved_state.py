"""Tests `Tracker.state_dict`: a resumed training has the averages of one that went on."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ncfast import Tracker
from ncfast.ops import _raw

X = torch.randn(120, 24, 6)
Y = torch.arange(24) % 3


def records_of(first, last, state=None, *, stream, block=1e9, split="train", **changes):
    """The records of the steps, and the state after the last one."""
    records = []
    settings = {"num_classes": 3, "metrics": "standard", "log_cost": False, **changes}
    with Tracker(sinks=[records.append], stream=stream, flush_seconds=block, **settings) as tracker:
        if state is not None:
            assert tracker.load_state_dict(state) is tracker
        for step in range(first, last + 1):
            tracker.step(feats=X[step % 120], labels=Y, split=split)
        found = tracker.state_dict()
    return records, found


@pytest.mark.parametrize("stream", ["ema:0.9", "ema:0.5", "window:7", "window:1", "window:64"])
@pytest.mark.parametrize("stop", [1, 16, 37, 64])
def test_averages_go_on_bit_for_bit(tmp_path, stream, stop):
    whole, _ = records_of(1, 100, stream=stream)
    before, state = records_of(1, stop, stream=stream)
    save_file(state, tmp_path / "state")
    after, _ = records_of(stop + 1, 100, load_file(tmp_path / "state"), stream=stream)
    assert [record["step"] for record in after] == list(range(stop + 1, 101))
    for one, other in zip([*before, *after], whole, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value == other[key] or value != value, (one["step"], key)


@pytest.mark.parametrize("stream", ["ema:0.9", "window:7"])
def test_the_reference_goes_on_too(stream, monkeypatch):
    monkeypatch.setattr(_raw, "extension", None)
    whole, _ = records_of(1, 60, stream=stream)
    _, state = records_of(1, 37, stream=stream)
    after, _ = records_of(38, 60, state, stream=stream)
    for one, other in zip(after, whole[37:], strict=True):
        assert one == pytest.approx(other, rel=1e-12, nan_ok=True)


def test_a_state_that_is_made_without_sinks_has_the_averages_too():
    _, state = records_of(1, 30, stream="ema:0.9")
    with Tracker(num_classes=3, stream="ema:0.9", metrics="standard") as tracker:
        for step in range(1, 31):
            tracker.step(feats=X[step], labels=Y)
        found = tracker.state_dict()
    for name, value in state.items():
        assert torch.equal(value, found[name]), name


def test_a_state_in_the_middle_changes_nothing():
    whole, end = records_of(1, 50, stream="window:9")
    records = []
    with Tracker(
        num_classes=3, sinks=[records.append], stream="window:9", metrics="standard", log_cost=False
    ) as tracker:
        for step in range(1, 51):
            tracker.step(feats=X[step], labels=Y)
            if step % 7 == 0:
                tracker.state_dict()
        found = tracker.state_dict()
    assert str(records) == str(whole)
    assert all(torch.equal(end[name], value) for name, value in found.items())


def test_each_split_and_layer_has_its_own_average():
    _, state = records_of(1, 10, stream="ema:0.9")
    after, later = records_of(11, 20, state, stream="ema:0.9", split="other")
    fresh, _ = records_of(11, 20, stream="ema:0.9", split="other")
    assert [r["ema/other/rnc1.max"] for r in after] == [r["ema/other/rnc1.max"] for r in fresh]
    # what was loaded for a split that did not come yet is kept
    assert torch.equal(later["average/ema/train:6"], state["average/ema/train:6"])
    assert "average/ema/other:6" in later


def test_loading_in_the_middle_goes_back():
    records = []
    with Tracker(
        num_classes=3, sinks=[records.append], stream="ema:0.9", metrics="rnc1", log_cost=False
    ) as tracker:
        for step in range(1, 21):
            tracker.step(feats=X[step], labels=Y)
            if step == 10:
                state = tracker.state_dict()
        tracker.load_state_dict(state)
        for step in range(11, 21):
            tracker.step(feats=X[step], labels=Y)
    assert records[20:] == records[10:20]
    assert len(records) == 30


def test_the_schedule_goes_on():
    _, state = records_of(1, 7, stream="batch")
    records, _ = records_of(8, 20, state, stream="batch", every=5)
    assert [record["step"] for record in records] == [10, 15, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("step"), "to have the entries .* but got"),
        (lambda s: s.update(other=torch.tensor(1)), "to have the entries"),
        (lambda s: s.update(step=7), "entry 'step' of `state` to be a tensor .* but got int"),
        (lambda s: s.update(step=torch.tensor(7.0)), "entry 'step'"),
        (lambda s: s.update(num_classes=torch.tensor(4)), "'num_classes' of `state` to be 3.* 4"),
        (lambda s: s.update(decay=torch.tensor(0.8).double()), "'decay' of `state` to be 0.9"),
        (lambda s: s.update(window=torch.tensor(3)), "'window' of `state` to be 0"),
        (lambda s: s.update({"average/ema/train:6": torch.zeros(2, 2)}), "entry 'average/ema/tr"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(change, message):
    _, state = records_of(1, 5, stream="ema:0.9")
    with Tracker(num_classes=3, stream="ema:0.9") as tracker:
        before = tracker.state_dict()
        change(state)
        with pytest.raises(ValueError, match=message):
            tracker.load_state_dict(state)
        assert tracker.state_dict() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v[:-1],
        lambda v: torch.cat([v[:1] - 10, v[1:]]),
        lambda v: torch.cat([v[:1] + 0.5, v[1:]]),
        lambda v: torch.cat([v[:1] + 1e9, v[1:]]),
        lambda v: torch.cat([v[:1] * torch.nan, v[1:]]),
        lambda v: torch.cat([v[:1], v[1:2] * torch.nan, v[2:]]),
    ],
)
@pytest.mark.skipif(_raw.extension is None, reason="states of the extension")
def test_an_average_that_cannot_be_continued_starts_empty_with_a_warning(spoil):
    """A position in it is an index into memory."""
    _, state = records_of(1, 5, stream="ema:0.9")
    state["average/ema/train:6"] = spoil(state["average/ema/train:6"])
    with pytest.warns(RuntimeWarning, match="The average of ema/train:6 starts empty"):
        after, _ = records_of(6, 9, state, stream="ema:0.9")
    fresh, _ = records_of(6, 9, stream="ema:0.9")
    assert [r["ema/train/rnc1.max"] for r in after] == [r["ema/train/rnc1.max"] for r in fresh]
