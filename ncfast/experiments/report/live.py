"""Implements `ncfast report --watch`: rewrites the page while the runs are training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ncfast.experiments.report.build import PAGE, Report, build_page, build_report, read_runs
from ncfast.experiments.report.runs import NoRecordYet, Run
from ncfast.experiments.run_dir import METRICS_FILE, write_atomically
from ncfast.experiments.sweep_file import runs_of

PAUSE = 5.0  # seconds between two looks at the logs
_SHARE = 9  # a page costs at most a tenth of a core: so many times its own time is waited


def _tell(line: str) -> None:
    print(line, flush=True)


def watch(
    directories: Sequence[Path],
    out: Path | None = None,
    *,
    pause: float = PAUSE,
    told: Callable[[str], None] = _tell,
) -> Report:
    """Rewrite report.html when the logs have grown, until all runs have reached their last step.

    The page is replaced as a whole, and a browser that shows it loads it again. At the end, and on
    Ctrl-C, it is written without that. A run that was interrupted is waited for, because it can be
    resumed.

    Args:
        directories: directories written by `ncfast train` or `ncfast sweep`.
        out: directory of the report; None uses the first of ``directories``.
        pause: shortest time between two looks at the logs, in seconds.
        told: receives the path of the page, once, and a line while there is no record.

    Returns:
        The report, with all its files.

    Raises:
        RunDirectoryError: a directory holds no run, or a file of it is damaged.
        ValueError: no directory was given.
        OSError: the output cannot be written.
    """
    page = (out or directories[0] if directories else Path()) / PAGE
    seen, said, runs = None, set[str](), list[Run]()
    wait = pause
    try:
        while not (runs and _finished(runs, directories)):
            size = _sizes(directories)
            if size != seen:
                start = time.process_time()
                line = str(page)
                try:
                    runs = read_runs(directories)
                    page.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(page, build_page(runs, directories, round(wait) + 1))
                except NoRecordYet:
                    line = "Waiting for the first record."
                if line not in said:
                    told(line)
                    said.add(line)
                seen = size
                wait = max(pause, _SHARE * (time.process_time() - start))
                continue
            time.sleep(wait)
    except KeyboardInterrupt:
        if runs:
            write_atomically(page, build_page(runs, directories, None))
        raise
    return build_report(directories, out)


def _finished(runs: Sequence[Run], directories: Sequence[Path]) -> bool:
    started = len(runs) == sum(len(runs_of(directory)) for directory in directories)
    return started and all(run.finished for run in runs)


def _sizes(directories: Sequence[Path]) -> list[int]:
    """The sizes of the logs; -1 for one that is not there."""
    logs = [run / METRICS_FILE for directory in directories for run in runs_of(directory)]
    return [log.stat().st_size if log.exists() else -1 for log in logs]
