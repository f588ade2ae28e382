"""Ranks that come apart: nobody aborts or hangs, and every rank keeps its log."""

import os
import warnings
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from samples import classes
from torch import nn

from ncfast.tracking import Tracker, read_records

LOCAL = "tracker/local"


class Left(Exception):
    """What ends a loop early."""


def batch(rank, step, dim=6):
    feats, labels = classes(40, dim, 4, seed=rank, dtype=torch.float32)
    return feats + step, labels


def loop(tracker, rank, steps, dim=6):
    for step in range(steps):
        feats, labels = batch(rank, step, dim)
        tracker.step(feats=feats, labels=labels)


def uneven(rank, world, sinks, steps):
    with Tracker(num_classes=4, sinks=sinks, group="auto") as tracker:
        loop(tracker, rank, steps[rank])


def leaves(rank, world, sinks, how):
    """Rank 1 raises at step 50 and goes home, with and without a ``with`` block."""
    if how == "with":
        with Tracker(num_classes=4, sinks=sinks, group="auto") as tracker:
            loop(tracker, rank, 50 if rank == 1 else 200)
            if rank == 1:
                raise Left
    else:
        tracker = Tracker(num_classes=4, sinks=sinks, group="auto")
        loop(tracker, rank, 50 if rank == 1 else 200)
        if rank == 1:
            raise Left
        tracker.close()


def destroyed(rank, world, sinks):
    with Tracker(num_classes=4, sinks=sinks, group="auto") as tracker:
        loop(tracker, rank, 100)
        dist.destroy_process_group()


def skips(rank, world, sinks):
    """Rank 1 has no labels at step 3: as many rows as rank 0 without step 4."""
    with Tracker(num_classes=4, sinks=sinks, group="auto") as tracker:
        for step in range(6):
            feats, labels = batch(rank, step)
            skipped = step == (3 if rank == 0 else 2)
            tracker.step(feats=feats, labels=None if skipped else labels)


def other_dims(rank, world, sinks):
    with Tracker(num_classes=4, sinks=sinks, group="auto") as tracker:
        loop(tracker, rank, 10, dim=[6, 7][rank])


def one_snapshot(rank, world, sinks):
    """Only rank 0 takes a snapshot; the others go on to the end of their block."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    model = nn.Sequential(nn.Linear(6, 6), model)
    with Tracker(model, num_classes=4, sinks=sinks, group="auto") as tracker:
        loop(tracker, rank, 5)
        if rank == 0:
            tracker.snapshot([batch(0, 0)])
        loop(tracker, rank, 5)


def logs_more(rank, world, sinks):
    """Rank 0 logs at every step what others do not: no reason to come apart."""
    with Tracker(num_classes=4, sinks=sinks, group="auto", every=2) as tracker:
        for step in range(200):
            feats, labels = batch(rank, step)
            tracker.step(feats=feats, labels=labels)
            if rank == 0:
                tracker.log({"lr": 0.1})


def run(rank, world, port, folder, scenario, *args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            scenario(rank, world, [f"{folder}/{rank}.jsonl"], *args)
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    said += [str(warning.message) for warning in caught]
    torch.save(said, f"{folder}/{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def outcome(tmp_path, world, scenario, *args):
    """What each rank was told, and its records; a rank that aborts fails the test."""
    run_ranks(run, world, str(tmp_path), scenario, *args)
    said = ["\n".join(torch.load(tmp_path / f"{rank}.pt")) for rank in range(world)]
    return said, [list(read_records(tmp_path / f"{rank}.jsonl")) for rank in range(world)]


def steps(records):
    return [record["step"] for record in records]


def is_local(records, after=0):
    """Whether the records after a step are this rank's, and say so, and those before are not."""
    return all((record.get(LOCAL) == 1) is (record["step"] > after) for record in records)


def alone(rank, count):
    """What a rank measures with nobody else."""
    records = []
    with Tracker(num_classes=4, sinks=[records.append], log_cost=False) as tracker:
        loop(tracker, rank, count)
    return records


@pytest.mark.parametrize("counts", [(100, 99), (128, 129), (99, 100, 100, 100)])
def test_unequal_numbers_of_steps(tmp_path, counts):
    """All steps are on disk, as this rank measured them, and the error says who made how many."""
    said, records = outcome(tmp_path, len(counts), uneven, counts)
    for rank, count in enumerate(counts):
        assert "RanksApart: Expected every rank to make the same calls" in said[rank]
        assert "(K, D)" not in said[rank], "they agree on these"
        assert steps(records[rank]) == list(range(1, count + 1))
        assert is_local(records[rank], after=128 if max(counts) > 128 else 0)
    if max(counts) == 100:
        assert all(f"up to step {count} " in text for count in counts for text in said)
        for found, expected in zip(records[0], alone(0, counts[0]), strict=True):
            assert {key: found[key] for key in expected} == expected
    else:
        assert "no measured step on rank 0; 1 measured step up to step 129" in said[0]


def test_a_rank_that_ends_early(tmp_path):
    """200 and 300 steps: the one that trains on is warned where it finds out, and trains on."""
    said, records = outcome(tmp_path, 2, uneven, (200, 300))
    assert [len(part) for part in records] == [200, 300]
    assert all(is_local(part, after=128) for part in records)
    assert "72 measured steps up to step 200" in said[0]
    assert said[1].count("128 measured steps up to step 256") == 2, "a warning, an error at close"


@pytest.mark.parametrize("how", ["with", "without"])
@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_that_raises(tmp_path, how, world):
    """The exception is its own; the others are told that it is gone and train to the end."""
    said, records = outcome(tmp_path, world, leaves, how)
    assert said[1].startswith("Left")
    assert is_local(records[1])
    assert steps(records[1]) == list(range(1, 51))
    for rank in {*range(world)} - {1}:
        assert "a rank died, left the loop early" in said[rank]
        assert "128 measured steps up to step 128" in said[rank]
        assert steps(records[rank]) == list(range(1, 201))
        assert is_local(records[rank])


def test_a_group_destroyed_before_close(tmp_path):
    """The log is whole, and the error says what to close first."""
    said, records = outcome(tmp_path, 2, destroyed)
    for rank in range(2):
        assert "Close the tracker before dist.destroy_process_group" in said[rank]
        assert steps(records[rank]) == list(range(1, 101))
        assert is_local(records[rank])


def test_the_same_number_of_other_steps(tmp_path):
    """Rows that do not belong together are never merged, though their number is the same."""
    said, records = outcome(tmp_path, 2, skips)
    assert all("5 measured steps up to step 6 (1-3, 5-6)" in text for text in said)
    assert all("5 measured steps up to step 6 (1-2, 4-6)" in text for text in said)
    assert steps(records[0]) == [1, 2, 3, 5, 6]
    assert all(is_local(part) for part in records)


def test_another_width(tmp_path):
    """Where K and D differ, it is they that are named."""
    said, records = outcome(tmp_path, 2, other_dims)
    assert all("(4, 6) x 10" in text and "(4, 7) x 10" in text for text in said)
    assert all(is_local(part) and len(part) == 10 for part in records)


def test_a_snapshot_on_one_rank(tmp_path):
    """The calls are named that do not meet, and both logs are kept."""
    said, records = outcome(tmp_path, 2, one_snapshot)
    assert all("a snapshot of test at step 5" in text for text in said)
    assert "test/rnc1.max" in records[0][4]
    assert [len(part) for part in records] == [10, 10]
    assert all(is_local(part) for part in records)


def test_one_rank_may_log_more(tmp_path):
    """Values of one rank's own are no measurement that others must make."""
    said, records = outcome(tmp_path, 2, logs_more)
    assert said == ["", ""]
    assert [len(part) for part in records] == [200, 100]
    assert not any(LOCAL in record for part in records for record in part)
    assert records[0][1]["train/rnc1.max"] == records[1][0]["train/rnc1.max"]


def parted_then_raises(rank, world, sinks):
    """The ranks come apart at step 128, and rank 1 fails later for a reason of its own."""
    with Tracker(num_classes=4, sinks=sinks, group="auto") as tracker:
        loop(tracker, rank, 150, dim=[6, 7][rank])
        if rank == 1:
            raise Left("a reason of its own")


def test_the_users_exception_is_not_hidden(tmp_path):
    """What ends the training is what the user sees last."""
    said, records = outcome(tmp_path, 2, parted_then_raises)
    assert said[0].startswith("RanksApart: Expected argument `moments`")
    assert said[1].startswith("Left: a reason of its own")
    assert [len(part) for part in records] == [150, 150]
