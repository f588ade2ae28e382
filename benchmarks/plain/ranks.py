"""Runs calls together in several processes of one machine, at times that the parent sets."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Prepare = Callable[[int, dict[str, Any]], dict[str, Callable[[], Any]]]


class World:
    """Ranks over gloo, one thread each.

    Args:
        ranks: how many processes.
        prepare: rank and settings to the functions that can be called, by name; it must be
            importable, because the processes are spawned.
        settings: what ``prepare`` gets.
    """

    def __init__(self, ranks: int, prepare: Prepare, settings: dict[str, Any]) -> None:
        context, folder = mp.get_context("spawn"), tempfile.TemporaryDirectory()
        store = str(Path(folder.name) / "store")
        self.pipes, processes = [], []
        for rank in range(ranks):
            mine, theirs = context.Pipe()
            given = rank, ranks, store, theirs, prepare, settings
            processes.append(context.Process(target=_serve, args=given, daemon=True))
            processes[-1].start()
            theirs.close()  # so that the end of the process closes the pipe
            self.pipes.append(mine)
        weakref.finalize(self, _close, self.pipes, processes, folder)

    def run(self, name: str, times: int) -> None:
        """Call a function a number of times on every rank, and wait for all ranks."""
        self._ask((name, times))

    def result(self, name: str) -> Any:
        """The result of the function on the first rank."""
        return self._ask((name, 0))[0]

    def _ask(self, command: tuple[str, int]) -> list[Any]:
        for pipe in self.pipes:
            pipe.send(command)
        try:
            return [pipe.recv() for pipe in self.pipes]
        except EOFError:
            raise RuntimeError("a rank ended") from None


def _serve(
    rank: int, ranks: int, store: str, pipe: Connection, prepare: Prepare, settings: dict[str, Any]
) -> None:
    """Call the functions that the parent names, until it closes the pipe."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    functions, results = prepare(rank, settings), dict[str, Any]()
    while (command := _received(pipe)) is not None:
        name, times = command
        for _ in range(times):
            results[name] = functions[name]()
        pipe.send(results[name] if not times and rank == 0 else None)
    dist.destroy_process_group()


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


def _close(pipes: list[Connection], processes: list[Any], folder: Any) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(10)
    folder.cleanup()
