"""A tracker on two ranks writes what one process with all the samples would."""

import os

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from samples import classes
from torch import nn

from ncfast.tracking import Tracker, read_records

SHARES = (150, 50)


def batches():
    feats, labels = classes(200, 6, 5, seed=3, dtype=torch.float32)
    return [(feats + step, labels) for step in range(3)]


def track(path, parts, group):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    with Tracker(model, num_classes=5, sinks=path, group=group, log_cost=False) as tracker:
        for feats, labels in parts:
            tracker.step(feats=feats, labels=labels)
        tracker.snapshot(parts, split="test", loss=nn.CrossEntropyLoss(reduction="sum"))


def worker(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mine = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
    parts = [(feats[mine], labels[mine]) for feats, labels in batches()]
    track([f"{folder}/ranks.jsonl"] if rank == 0 else [], parts, "auto")
    dist.destroy_process_group()


def test_two_ranks_write_what_one_would(tmp_path):
    run_ranks(worker, 2, str(tmp_path))
    track([tmp_path / "one.jsonl"], batches(), None)
    found = list(read_records(tmp_path / "ranks.jsonl"))
    expected = list(read_records(tmp_path / "one.jsonl"))
    assert [set(record) for record in found] == [set(record) for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_groups():
    Tracker(num_classes=2, group="auto").close()  # a single process reduces nothing
    with pytest.raises(ValueError, match="None, 'auto' or a process group but got 'all'"):
        Tracker(num_classes=2, group="all")
