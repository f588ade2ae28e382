"""A tracker in data-parallel training: what several ranks log is what one process logs."""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from samples import classes
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import ncfast
from ncfast.tracking import Tracker, read_records

METRICS = ["rnc1", "nc1.cdnv", "nc2.equinorm"]
# torch 2.6 has no fully_shard on a CPU: 'Stream' object has no attribute 'record_event'
FSDP = pytest.param(
    *("fsdp", 2),
    marks=pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6"),
)
SIZES = {1: [300], 2: [290, 10], 4: [150, 20, 130, 0]}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.double()

    def forward(self, x):
        feats = self.body(x).relu()
        return self.head(feats), feats


def wrapped(model, kind, world):
    if kind == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (world,))
    for layer in (model.body, model.head, model):
        fully_shard(layer, mesh=mesh)
    return model


def train(model, parallel, rank, world):
    """Records of three steps on this rank's share, with merged metrics under all/."""
    feats, labels = classes(300, 6, 5, seed=7)
    x, y = (part.split(SIZES[world])[rank] for part in (feats, labels))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records, together = [], []
    shared = {"num_classes": 5, "metrics": METRICS}
    with (
        Tracker(model, sinks=[records.append], **shared) as tracker,
        Tracker(group="auto", sinks=[together.append], **shared) as merging,
    ):
        for _ in range(3):
            optimizer.zero_grad()
            logits, hidden = parallel(x)
            loss = nn.functional.cross_entropy(logits, y, reduction="sum")
            (loss * world / 300).backward()
            optimizer.step()
            if len(x):
                tracker.step(labels=y)
                part = ncfast.class_moments(hidden, y, num_classes=5)
                local = ncfast.collapse_metrics(part, metrics="rnc1.max")
                tracker.log({"own": local["rnc1.max"]})
            else:
                tracker.advance()
                part = ncfast.ClassMoments.empty(5, 8)
            whole = ncfast.collapse_metrics(
                part.all_reduce() if world > 1 else part, metrics=METRICS
            )
            tracker.log({f"all/{name}": value for name, value in whole.items()})
            tracker.log({"weight.norm": ncfast.weight_norm(model)})
            if min(SIZES[world]):
                merging.step(feats=hidden, labels=y)
    for record, merged in zip(records, together, strict=False):
        record.update({f"all/{k}": v for k, v in merged.items() if k.startswith("train/")})
    return records


def worker(rank, world, port, folder, kind):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = Network()
    torch.save(train(model, wrapped(model, kind, world), rank, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("kind", "world"), [("ddp", 2), ("ddp", 4), FSDP])
def test_several_ranks_log_what_one_process_logs(kind, world, tmp_path):
    run_ranks(worker, world, str(tmp_path), kind)
    model = Network()
    single = train(model, model, 0, 1)
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert [record["step"] for record in found] == [1, 2, 3]
        for record, expected in zip(found, single, strict=True):
            merged = {k: v for k, v in expected.items() if k.startswith(("all/", "weight"))}
            if not min(SIZES[world]):  # an idle rank has no step to take with a tracker
                merged = {k: v for k, v in merged.items() if "/train/" not in k}
            assert {k: record[k] for k in merged} == pytest.approx(merged, rel=1e-6, nan_ok=True)
            if "own" in record:  # the hooks see this rank's features, inside the wrapper too
                assert record["train/rnc1.max"] == pytest.approx(record["own"], rel=1e-9)


def doomed(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    group = dist.new_group(timeout=timedelta(seconds=3))  # that of the start is longer
    feats, labels = classes(300, 6, 5, seed=7)
    part = ncfast.class_moments(feats, labels, num_classes=5)
    sinks = [f"{folder}/metrics.jsonl"] if rank == 0 else []
    try:
        with Tracker(num_classes=5, sinks=sinks) as tracker:
            for step in range(5):
                if rank == 1 and step == 3:
                    os._exit(0)
                tracker.advance()
                tracker.log(ncfast.collapse_metrics(part.all_reduce(group), metrics="rnc1"))
    except RuntimeError as error:
        torch.save(str(error), f"{folder}/error.pt")
    os._exit(0)


def test_a_dying_rank_gives_an_error_and_what_was_logged_stays(tmp_path):
    run_ranks(doomed, 2, str(tmp_path))
    assert "a rank died" in torch.load(tmp_path / "error.pt")
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == [1, 2, 3]


def data_of(ranks):
    """Batches of a split, whose first rows have no label."""
    feats, labels = classes(300, 6, 5, seed=7)
    labels[:7] = -100
    shares = zip(feats.split(SIZES[4]), labels.split(SIZES[4]), strict=True)
    return [[(x, y)] for i, (x, y) in enumerate(shares) if i in ranks and len(x)]


class Logits(Network):
    def forward(self, x):
        return super().forward(x)[0]


def measure(batches, sinks, limit="2GiB"):
    model = Logits()
    outside = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)).double()
    options = {"num_classes": 5, "metrics": "rnc1", "group": "auto", "sinks": sinks}
    with Tracker(model, **options) as tracker:
        loader = [batch for share in batches for batch in share]
        tracker.snapshot(loader, metrics=["full"], memory_limit=limit)
        tracker.snapshot(loader, split="near", metrics=["nc5.ood_cosine"], ood=[outside])


def snapshots(rank, world, port, folder, limit):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    records = []
    measure(data_of([0, 1]) if rank == 0 else data_of([2]), [records.append], limit)
    torch.save(records, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("limit", ["2GiB", 600])
def test_a_snapshot_of_every_id_is_that_of_all_ranks(limit, tmp_path):
    run_ranks(snapshots, 2, str(tmp_path), limit)
    records = []
    measure(data_of([0, 1, 2]), [records.append], limit)
    (single,) = records
    for rank in range(2):
        (found,) = torch.load(tmp_path / f"{rank}.pt")
        assert "tracker/local" not in found
        assert found["test/ignored"] == 7
        expected = {k: v for k, v in single.items() if not k.startswith("tracker/")}
        assert expected.keys() == found.keys() - {"tracker/seconds"}
        assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-6, nan_ok=True)


def token_steps(batches, sinks):
    with Tracker(num_classes=5, group="auto", sinks=sinks) as tracker:
        for share in batches:
            for x, y in share:
                tracker.step(feats=x, labels=y)


def token_worker(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    records = []
    token_steps(data_of([0]) if rank == 0 else data_of([2]), [records.append])
    torch.save(records, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_rows_left_out_of_a_step_are_those_of_all_ranks(tmp_path):
    run_ranks(token_worker, 2, str(tmp_path))
    for rank in range(2):
        (found,) = torch.load(tmp_path / f"{rank}.pt")
        assert found["train/ignored"] == 7
