"""Starts the self-check of the kernels in the background, once for each device and version.

A process of its own makes the check, because a kernel that is wrong can end the CUDA context of its
process, and one that hangs cannot be stopped in any other way. Where a check might disturb others
(several processes on a device, batch systems, a full card) nothing is started, and one hint names
the command that makes the check.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from subprocess import DEVNULL, Popen

import torch

from ncfast._warnings import user_level
from ncfast.ops import _verdicts
from ncfast.ops._verdicts import COMMAND, Table

# features with fewer entries take as long by the reference as a launch, or nearly
GAIN = 1 << 16
FREE_BYTES = 4 << 30
# set by what starts many processes at once, or counts what a job leaves behind
_SHARED = (
    *("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"),
    *("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID", "COBALT_JOBID"),
    *("_CONDOR_SLOT", "OAR_JOB_ID", "RAY_JOB_ID"),
)
_considered: set[int] = set()
_running: list[Popen[bytes]] = []


def consider(device: torch.device, entries: int) -> None:
    """Start the self-check for a CUDA device, or give the hint; once in a process.

    Nothing happens for features of so few ``entries`` that kernels would gain little.
    """
    table = _verdicts.table_of(device)
    if table is None or table.number in _considered or entries < GAIN:
        return
    number = table.number
    _considered.add(number)
    _verdicts.read(table)  # another process may have started one since
    if table.verdicts:
        return
    try:
        why_not = why_not_here(number) or _start(table, number)
    except (RuntimeError, OSError) as error:  # of a driver; this must not end a training
        why_not = str(error)
    if why_not is not None:
        _hint(why_not)


def why_not_here(number: int) -> str | None:
    """The reason why this process starts no self-check of CUDA device ``number`` by itself."""
    shared = [name for name in _SHARED if os.environ.get(name)]
    if shared:
        return f"this process belongs to a job or to a group of processes ({shared[0]} is set)"
    if multiprocessing.parent_process() is not None:
        return "this process was started by another one of Python"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "torch.distributed is in use"
    if not sys.executable:
        return "the path of Python is unknown"
    free = torch.cuda.mem_get_info(number)[0]
    if free < FREE_BYTES:
        return f"only {free / 2**30:.1f} GiB of the device's memory are free, not 4"
    return None


def _start(table: Table, number: int) -> str | None:
    """Start the check unless one was started before; the reason if none runs now."""
    if settle_file(table) is None:
        assert table.file is not None
        try:
            with table.file.with_suffix(".started").open("x"):
                pass
        except FileExistsError:
            return "one was started before and has left no verdict"
    command = supervisor_command(table, number)
    try:
        _running.append(
            Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
        )
    except OSError as error:
        return f"it could not be started: {error}"
    return None


def settle_file(table: Table) -> str | None:
    """Make sure that the file of the verdicts can be written.

    Where the usual folder cannot be written to, the verdicts are this process's alone.

    Returns:
        The reason why the verdicts cannot be kept; None if they can.
    """
    try:
        if table.file is None:
            raise OSError("the user has no home directory")
        table.file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=table.file.parent):
            pass
    except OSError as error:
        table.elsewhere = _private_folder() / f"{table.key}.json"
        return str(error)
    return None


@functools.cache
def _private_folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="ncfast-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def supervisor_command(table: Table, number: int) -> list[str]:
    """The command that checks CUDA device ``number`` and writes the file of the table."""
    given = {"file": str(table.file), "facts": table.facts, "visible": visible_name(number)}
    return python("ncfast.self_check.supervisor", json.dumps(given))


def python(module: str, *arguments: str) -> list[str]:
    """A command that calls ``main(*arguments)`` of a module with this process's search path."""
    code = (
        "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        f"importlib.import_module({module!r}).main(*sys.argv[2:])"
    )
    return [sys.executable, "-c", code, json.dumps(sys.path), *arguments]


def visible_name(number: int) -> str:
    """What CUDA_VISIBLE_DEVICES must say for a process that is to see this device alone."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[number].strip() if visible else str(number)


def _hint(why_not: str) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # one rank says it for all
    # a warning that is an error must not end a training
    with contextlib.suppress(UserWarning):
        warnings.warn(
            "ncfast uses the slower reference on this GPU, because its kernels were not checked "
            f"here: {why_not}. To check them once, run `{COMMAND}`; to hide this hint, set "
            "NCFAST_TRITON=0.",
            UserWarning,
            stacklevel=user_level(),
        )


@atexit.register
def _leave() -> None:
    """Let running checks go on after this process: Python would warn that they are not awaited."""
    for process in _running:
        if process.poll() is None:
            process.returncode = 0
