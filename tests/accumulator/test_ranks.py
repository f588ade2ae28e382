"""`Accumulator.all_reduce` over real gloo processes: uneven shards, and a rank without a batch."""

import os

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from samples import classes, companions

import ncfast
from ncfast.accumulator import ranks


def start(rank, world, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)


def data():
    return classes(300, 9, 5, seed=7), companions(5, 9)


def shard(rank, world, tensor):
    """Uneven parts of the rows in order, none for the last of several ranks."""
    sizes = {1: [300], 2: [300, 0], 4: [170, 10, 120, 0]}[world]
    total = len(tensor)
    edges = [sum(sizes[:r]) * total // 300 for r in range(world + 1)]
    return tensor[edges[rank] : edges[rank + 1]]


def both_looks(rank, world, acc):
    (feats, labels), (_, _, ood) = data()
    order = torch.sort(labels, stable=True).indices  # ranks lack classes
    feats, labels, ood = (shard(rank, world, part) for part in (feats[order], labels[order], ood))
    for x, y in zip(feats.split(41), labels.split(41), strict=True):
        if len(x):
            acc.update(x, y)
    if len(ood):
        acc.update_ood(ood)
    acc.all_reduce()
    for x, y in zip(feats.split(23), labels.split(23), strict=True):
        if len(x):
            acc.revisit(x, y)
    if len(ood):
        acc.revisit_ood(ood)
    return acc.all_reduce()


def worker(rank, world, port, folder):
    start(rank, world, port)
    (weight, bias, _) = data()[1]
    acc = ncfast.Accumulator(5, metrics="all", weight=weight, bias=bias)
    first = both_looks(rank, world, acc).compute()
    with pytest.raises(RuntimeError, match="reset"):
        acc.update(*classes(10, 9, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "EXCHANGE_BYTES", 0)
        large = both_looks(rank, world, acc.reset()).compute()
    torch.save([first, large, acc.ignored, acc.moments.total], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_id_on_ranks_equals_the_whole(world, tmp_path):
    run_ranks(worker, world, str(tmp_path))
    (feats, labels), (weight, bias, ood) = data()
    whole = ncfast.collapse_metrics(feats, labels, weight=weight, bias=bias, ood_feats=ood)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for values in states[0][:2]:
        assert set(values) == set(whole)
        for name, value in whole.items():
            assert float(values[name]) == pytest.approx(float(value), rel=1e-9, abs=1e-13), name
    for state in states[1:]:
        for mine, other in zip(state[:2], states[0][:2], strict=True):
            assert all(torch.equal(mine[name], other[name]) for name in other), "the same bits"


def counting(rank, world, port, folder):
    """One collective where D is known and nothing is looked at twice; one more where not."""
    start(rank, world, port)
    calls = []

    def reduce(acc):
        if rank == 0:
            acc.update(*classes(60, 9, 5))
        return acc.all_reduce()

    reduce(ncfast.Accumulator(5, 9, metrics="nc1"))  # the first one also compares the sizes
    for name in ("all_gather_single", "all_gather_into_tensor", "all_reduce"):
        if hasattr(dist, name):
            setattr(dist, name, counted(getattr(dist, name), calls))
    assert reduce(ncfast.Accumulator(5, 9, metrics="nc1")).moments.total == 60
    assert len(calls) == 1, calls
    calls.clear()
    acc = reduce(ncfast.Accumulator(5, metrics=["nc1", "nc4.ncc_accuracy"]))
    assert acc.moments.total == 60
    assert len(calls) <= 3, calls
    calls.clear()
    if rank == 0:
        acc.revisit(*classes(60, 9, 5))
    assert "nc4.ncc_accuracy" in acc.all_reduce().compute()
    assert len(calls) == 2, calls
    assert ncfast.Accumulator(5).all_reduce().dim is None, "nobody has a batch"
    dist.destroy_process_group()


def differing(rank, world, port, folder):
    start(rank, world, port)
    batch = classes(60, 9 + rank, 5)
    with pytest.raises(ValueError, match="D = 9 on rank 0; D = 10 on rank 1"):
        ncfast.Accumulator(5).update(*batch).all_reduce()
    with pytest.raises(ValueError, match="num_classes = 5.*on rank 0; .*num_classes = 6"):
        ncfast.Accumulator(5 + rank, 9).all_reduce()
    with pytest.raises(ValueError, match="memory_limit = None.*on rank 0; .*memory_limit = 9"):
        ncfast.Accumulator(5, 9, metrics="lite", memory_limit=[None, 9][rank]).all_reduce()
    with pytest.raises(ValueError, match="metrics = nc1.*on rank 0; .*metrics = nc2"):
        ncfast.Accumulator(5, metrics=["nc1.cdnv", "nc2.condition"][rank]).all_reduce()
    dist.destroy_process_group()


def counted(original, calls):
    def call(*args, **kwargs):
        calls.append(original.__name__)
        return original(*args, **kwargs)

    return call


@pytest.mark.parametrize("work", [counting, differing])
def test_collectives_and_ranks_that_differ(work, tmp_path):
    run_ranks(work, 2, str(tmp_path))


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match="init_process_group first"):
        ncfast.Accumulator(3).all_reduce()
