"""One collective against two: class moments over the ranks of one machine (gloo).

Prints, for a number of ranks and sizes of the state, the median of both ways of
`ncfast.distributed.all_reduce_many`, interleaved. Run it on a quiet machine:

    OMP_NUM_THREADS=1 python benchmarks/studies/all_reduce.py
"""

import argparse
import os
import socket
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import ncfast
from ncfast import distributed

SHAPES = ((10, 512), (100, 512), (256, 512), (512, 512), (1000, 1024), (4000, 1024))
WAYS = {"gather": distributed._gather, "exchange": distributed._exchange}


def measure(rank: int, world: int, port: int, repeats: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for classes, dim in SHAPES:
        labels = torch.arange(2 * classes) % classes
        feats = torch.randn(2 * classes, dim) + rank
        moments = ncfast.class_moments(feats, labels, num_classes=classes)
        check(moments, world)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(repeats):
            for name, reduce in WAYS.items():
                dist.barrier()
                start = time.perf_counter()
                reduce([moments], world, None)
                seconds[name].append(time.perf_counter() - start)
        if rank == 0:
            one, two = (1e3 * statistics.median(seconds[name]) for name in WAYS)
            size = 8 * classes * (dim + 2) / 2**20
            print(
                f"W = {world}, K = {classes}, D = {dim} ({size:.2f} MiB): one collective "
                f"{one:.1f} ms, two {two:.1f} ms, ratio {one / two:.2f}",
                flush=True,
            )
    dist.destroy_process_group()


def check(moments: ncfast.ClassMoments, world: int) -> None:
    """Both ways agree, before either is timed."""
    one, two = (reduce([moments], world, None)[0].state_dict() for reduce in WAYS.values())
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-12, atol=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    for world in arguments.ranks:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.spawn(measure, (world, port, arguments.repeats), nprocs=world)


if __name__ == "__main__":
    main()
