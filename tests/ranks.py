"""For tests over several processes."""

import multiprocessing
import socket

import torch.multiprocessing as mp


def run_ranks(worker, world, *args):
    """``worker(rank, world, port, *args)`` in processes of their own, until all have ended.

    They are forked from one process that has imported torch and nothing else: an import each would
    be most of the time.
    """
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "ncfast"])
    mp.start_processes(worker, (world, free_port(), *args), nprocs=world, start_method="forkserver")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
