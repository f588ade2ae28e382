"""Data-parallel training in several processes, with the metrics of the whole batch.

Each process measures its share of the batch. One collective per block of records merges the class
moments of all processes. The log is therefore the same for any number of processes, up to rounding.
Run it with ``torchrun --standalone --nproc-per-node 2 examples/ddp_torchrun.py``.
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


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same order of samples in every process
    found = load_digits()
    images = torch.tensor(found.data, dtype=torch.float32) / 16
    labels = torch.tensor(found.target)
    network = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    # one process writes; group="auto" merges the moments of all processes
    sinks = [f"{OUT}/metrics.jsonl"] if rank == 0 else []
    with ncfast.Tracker(network, num_classes=10, sinks=sinks, group="auto") as tracker:
        for _ in range(STEPS):
            mine = torch.randint(len(images), (BATCH,))[rank::world]
            loss = nn.functional.cross_entropy(model(images[mine]), labels[mine], reduction="sum")
            optimizer.zero_grad()
            # DDP averages over processes, which gives the mean over the batch
            (loss * world / BATCH).backward()
            optimizer.step()
            tracker.step(labels=labels[mine])

    if rank == 0:
        *_, last = read_records(f"{OUT}/metrics.jsonl")
        print(f"step {last['step']} on {world} processes: RNC1 {last['train/rnc1.max']:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
