"""Data-parallel training in several processes, with the metrics of the whole batch.

Each process measures its share of the batch; the moments of all are merged in one collective, so
that the log is that of a single process. Run it with
``torchrun --standalone --nproc-per-node 2 examples/ddp_torchrun.py``; any number of processes
writes the same log, up to rounding.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ncfast
from ncfast.tracking import read_records

OUT = "runs/ddp_torchrun"
BATCH, STEPS = 150, 60
METRICS = ("rnc1.max", "nc1.cdnv", "nc2.equinorm")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feats = self.body(images)
        return self.head(feats), feats


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same order of samples in every process
    found = load_digits()
    images = torch.tensor(found.data, dtype=torch.float32) / 16
    labels = torch.tensor(found.target)
    model = DistributedDataParallel(Network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    # one process writes
    sinks = [f"{OUT}/metrics.jsonl"] if rank == 0 else []
    with ncfast.Tracker(num_classes=10, sinks=sinks) as tracker:
        for _ in range(STEPS):
            mine = torch.randint(len(images), (BATCH,))[rank::world]
            logits, feats = model(images[mine])
            loss = nn.functional.cross_entropy(logits, labels[mine], reduction="sum")
            optimizer.zero_grad()
            (loss * world / BATCH).backward()  # the mean over processes is the mean over the batch
            optimizer.step()

            tracker.advance()
            if tracker.due:
                part = ncfast.class_moments(feats, labels[mine], num_classes=10)
                values = ncfast.collapse_metrics(part.all_reduce(), which=METRICS)
                tracker.log({f"train/{name}": value for name, value in values.items()})

    if rank == 0:
        *_, last = read_records(f"{OUT}/metrics.jsonl")
        print(f"step {last['step']} on {world} processes: RNC1 {last['train/rnc1.max']:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
