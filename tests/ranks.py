"""Runs a function in several processes, for tests of distributed code."""

import multiprocessing
import socket

import torch.multiprocessing as mp


def run_ranks(worker, world, *args):
    """Run ``worker(rank, world, port, *args)`` in ``world`` processes and wait for all to end.

    The processes are forked from one that has imported only torch, because an import in each of
    them would take most of the time.
    """
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "ncfast"])
    mp.start_processes(worker, (world, free_port(), *args), nprocs=world, start_method="forkserver")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
