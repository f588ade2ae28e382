"""Tests `all_reduce` over gloo processes: unequal shards, absent classes, idle and dying ranks."""

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import free_port, run_ranks
from samples import classes

import ncfast
from ncfast import distributed
from ncfast.distributed import all_reduce_many


def shards(world):
    """Unequal shards of sorted labels: ranks lack classes, and the last rank has no sample."""
    feats, labels = classes(300, 6, 5, seed=7)
    order = torch.sort(labels, stable=True).indices
    feats, labels = feats[order] + 100, labels[order]
    sizes = [290, 10] if world == 2 else [150, 20, 130, 0]
    return feats, labels, list(zip(feats.split(sizes), labels.split(sizes), strict=True))


def worker(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    _, _, parts = shards(world)
    feats, labels = parts[rank]
    if len(feats):
        moments = ncfast.class_moments(feats, labels, num_classes=5)
    else:
        moments = ncfast.ClassMoments.empty(5, 6)
    moments.all_reduce()  # the first one also compares K and D
    calls = []
    for name in dir(dist):
        original = getattr(dist, name)
        if name.startswith(("all_", "reduce", "broadcast", "gather")) and callable(original):
            setattr(dist, name, counted(name, original, calls))
    reduced = moments.all_reduce()
    assert calls in (["all_gather_single"], ["all_gather_into_tensor"]), "one collective"
    several_at_once(rank, moments, reduced)
    # a subgroup reduces among its members only
    group = dist.new_group([0, 1])
    pair = moments.all_reduce(group) if rank < 2 else None
    torch.save(
        {"all": reduced.state_dict(), "pair": pair and pair.state_dict()}, f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


def several_at_once(rank, moments, reduced):
    """Both ways, one collective and two, give the merge in rank order; K < W and K % W too."""
    small = ncfast.class_moments(torch.full((rank + 1, 3), 0.1), torch.zeros(rank + 1).long())
    one_by_one = [reduced, small.all_reduce(), moments.all_reduce()]
    with pytest.MonkeyPatch.context() as patch:
        for limit in (1 << 60, 0):
            patch.setattr(distributed, "EXCHANGE_BYTES", limit)
            together = all_reduce_many([moments, small, moments])
            for found, expected in zip(together, one_by_one, strict=True):
                for name, value in expected.state_dict().items():
                    assert torch.equal(found.state_dict()[name], value), (limit, name)
    assert all_reduce_many([]) == []


def disagreeing(rank, world, port, folder):
    """K and D differ, once with states of the same size, and then agree."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    empty, errors = ncfast.ClassMoments.empty, []
    for mine in ([(5, 6), (4, 8)][rank], [(5, 6), (7, 6)][rank]):
        with pytest.raises(ValueError, match="same .K, D. on every rank") as caught:
            empty(*mine).all_reduce()
        errors.append(str(caught.value))
    with pytest.raises(ValueError, match="on rank 1"):
        all_reduce_many([empty(5, 6)] * (100 + rank))
    assert empty(5, 6).all_reduce().total == 0
    torch.save(errors, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_that_disagree_on_the_shapes_all_say_so(tmp_path):
    run_ranks(disagreeing, 2, str(tmp_path))
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one == other
    assert "(5, 6) on rank 0; (4, 8) on rank 1" in one[0]


def counted(name, original, calls):
    def call(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    return call


@pytest.mark.parametrize("world", [2, 4])
def test_all_reduce_equals_a_single_process(world, tmp_path):
    run_ranks(worker, world, str(tmp_path))
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    feats, labels, parts = shards(world)
    whole = ncfast.class_moments(feats, labels, num_classes=5).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(states[0]["all"][name], value, rtol=1e-12, atol=0)
        for state in states[1:]:
            assert torch.equal(state["all"][name], states[0]["all"][name]), "the same bits"
    two = [ncfast.class_moments(x, y, num_classes=5) for x, y in parts[:2]]
    for name, value in two[0].merge(two[1]).state_dict().items():
        assert torch.equal(states[0]["pair"][name], value)


def test_without_a_process_group():
    moments = ncfast.class_moments(*classes(), num_classes=5)
    with pytest.raises(RuntimeError, match="init_process_group first"):
        moments.all_reduce()


def doomed(rank, world, port, folder):
    """Rank 1 makes no call after the first reduction; the others must raise in time."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    # the short time-out is not that of the start, when a busy machine may keep a rank waiting
    group = dist.new_group(timeout=timedelta(seconds=2))
    moments = ncfast.class_moments(*classes(), num_classes=5)
    moments.all_reduce(group)
    if rank == 1 and folder.endswith("dies"):
        os._exit(0)
    if rank == 1:
        time.sleep(8)
        os._exit(0)
    start = time.monotonic()
    try:
        moments.all_reduce(group)
    except RuntimeError as error:
        torch.save([str(error), time.monotonic() - start], f"{folder}-{rank}.pt")
    os._exit(0)


@pytest.mark.parametrize("fate", ["dies", "hangs"])
def test_a_rank_that_is_lost_gives_an_error_in_time(fate, tmp_path):
    run_ranks(doomed, 2, str(tmp_path / fate))
    message, seconds = torch.load(tmp_path / f"{fate}-0.pt")
    assert "2 ranks could not combine their class moments: a rank died" in message
    assert seconds < 7, "the time-out is 2 seconds"


ENDING = """
import sys, torch, torch.distributed as dist
import ncfast
address, rank = f"tcp://127.0.0.1:{sys.argv[1]}", int(sys.argv[2])
dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
sys.setswitchinterval(1000)  # gloo's thread waits for Python's lock until this process ends
for _ in range(3):
    ncfast.class_moments(torch.ones(4, 500), torch.arange(4)).all_reduce()
    sum(range(3_000_000))
"""


def test_a_process_may_end_after_a_collective():
    """Without `_ranks.finish` gloo's thread now and then aborts one of the processes."""
    command, port = [sys.executable, "-c", ENDING], str(free_port())
    ranks = [subprocess.Popen([*command, port, str(rank)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
