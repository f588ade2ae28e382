"""The ``ncfast`` command: chooses the subcommand and turns errors into one line and a status."""

from __future__ import annotations

import os
import platform
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ncfast import _interrupt
from ncfast._arguments import USAGE, parse

_EXTRA = "more packages: pip install 'ncfast[experiments]'"
# Errors that a user can cause and fix. They are shown as one line, without a traceback.
_USER_ERRORS = (OSError, ValueError, RuntimeError)
INTERRUPTED = _interrupt.STATUS
PIPE_CLOSED = 141  # the status that a shell reports after SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    The status is 0 after success and help, 1 after a failure, 2 after a mistake in the options, 130
    after Ctrl-C, and 141 after the reader of the output has closed it.

    Args:
        argv: the arguments; None takes those of the process.

    Raises:
        SystemExit: with 0 after the help of a command, with 2 after a mistake in its options.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with _interrupt.raised() as interrupts:
        try:
            try:
                return _run(arguments)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _silence()
            return PIPE_CLOSED
        except KeyboardInterrupt:
            print(_interrupt.LINE, file=sys.stderr)
            return INTERRUPTED
        except Exception:
            if not interrupts.seen:
                raise
            print(_interrupt.LINE, file=sys.stderr)
            return INTERRUPTED


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        import ncfast

        print(f"ncfast {ncfast.__version__}")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        known = ", ".join(COMMANDS)
        print(f"ncfast: unknown command {arguments[0]!r}. Known: {known}.", file=sys.stderr)
        return USAGE
    try:
        return command(arguments[1:])
    except ModuleNotFoundError as error:
        if {"-h", "--help"} & {*arguments}:
            print(f"usage: ncfast {arguments[0]} [options]\n\n{command.__doc__}\n")
            print(f"The list of options needs {_EXTRA}")
            return 0
        _complain(f"{error}. This command needs {_EXTRA}")
        return 1
    except BrokenPipeError:
        raise
    except _USER_ERRORS as error:
        _complain(str(error))
        return 1


def _complain(text: str) -> None:
    """Show an error as one line: a name of a file may hold line breaks and control characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    print(f"ncfast: {shown}", file=sys.stderr)


def _silence() -> None:
    """Redirect closed output streams to the null device, so that the exit does not fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _is_closed(stream):
            os.dup2(nothing, stream.fileno())


def _is_closed(stream: TextIO) -> bool:
    """Whether the stream is a pipe without a reader. A write of zero bytes would not show it."""
    try:
        found = select.poll()
        found.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in found.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll() here, or no file
        return False


def _usage() -> str:
    lines = [f"  {name:<8} {function.__doc__}" for name, function in COMMANDS.items()]
    usage = "usage: ncfast COMMAND [options]   (ncfast COMMAND --help)   or   ncfast --version"
    return "\n".join([usage, "", *lines])


def _train(arguments: Sequence[str]) -> int:
    """Train a network and track its collapse."""
    from ncfast.experiments.config import TrainConfig

    config = parse(TrainConfig, "train", arguments)
    if config.resume:
        from ncfast.experiments.run_dir import load_settings

        # Options that are not on the command line keep their saved values.
        config = parse(TrainConfig, "train", arguments, load_settings(config.out))
    from ncfast.experiments.report import build_report
    from ncfast.experiments.trainer import train

    outcome = train(config)
    if not outcome.finished:
        print(
            f"Interrupted at step {outcome.step}; the state is saved. Continue with:\n"
            f"  ncfast train --out {shlex.quote(str(config.out))} --resume",
            file=sys.stderr,
        )
        return INTERRUPTED
    report = build_report([config.out])
    print(f"Report: {report.html}")
    return 0


def _sweep(arguments: Sequence[str]) -> int:
    """Train many replicas at once: weight decays, seeds, presets of the paper."""
    from ncfast.experiments.presets import expand
    from ncfast.experiments.sweep import sweep
    from ncfast.experiments.sweep_config import SweepConfig
    from ncfast.experiments.sweep_file import load_settings

    config = parse(SweepConfig, "sweep", arguments)
    # Options that are not on the command line come from the resumed sweep or from the preset.
    if config.resume:
        config = parse(SweepConfig, "sweep", arguments, load_settings(config.out))
    elif config.preset is not None:
        config = parse(SweepConfig, "sweep", arguments, expand(config))
    outcome = sweep(config)
    if not outcome.finished:
        print(
            "Interrupted; the state is saved. Continue with:\n"
            f"  ncfast sweep --out {shlex.quote(str(config.out))} --resume",
            file=sys.stderr,
        )
        return INTERRUPTED
    if outcome.alone:
        from ncfast.experiments.report import build_report

        print(f"Report: {build_report([config.out]).html}")
    return 0


def _report(arguments: Sequence[str]) -> int:
    """Draw the report of one run, or of several runs together."""
    from ncfast.experiments.config import ReportConfig

    config = parse(ReportConfig, "report", arguments)
    from ncfast.experiments.report import build_report, watch

    report = (watch if config.watch else build_report)(config.runs, config.out)
    for path in (*report.pictures, report.html):
        print(path)
    return 0


def _eval(arguments: Sequence[str]) -> int:
    """Compute the metrics of features and labels in files."""
    from ncfast.evaluation.command import EvalConfig, run

    run(parse(EvalConfig, "eval", arguments))
    return 0


def _bench(arguments: Sequence[str]) -> int:
    """Check and time every operation against plain torch and other libraries."""
    from ncfast.benchmarks.config import BenchConfig

    config = parse(BenchConfig, "bench", arguments)
    from ncfast.benchmarks.bench import bench, compare_files

    if config.compare is not None:
        return int(compare_files(*config.compare))
    bench(config)
    return 0


def _info(arguments: Sequence[str]) -> int:
    """Show versions, devices, backends and why they can run; --check-gpu checks the GPU kernels."""
    if arguments and [*arguments] != ["--check-gpu"]:
        asked = arguments[0] in ("-h", "--help")
        print("usage: ncfast info [--check-gpu]", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else USAGE
    status = _check_gpu() if arguments else 0
    import numpy
    import torch

    import ncfast

    rows: list[tuple[str, Any]] = [
        ("ncfast", ncfast.__version__),
        ("python", platform.python_version()),
        ("torch", f"{torch.__version__}, threads: {torch.get_num_threads()}"),
        ("numpy", numpy.__version__),
        ("platform", f"{platform.system()} {platform.machine()}"),
        ("cuda", ", ".join(_cuda_devices()) or "no device"),
    ]
    rows += [
        (f"backend {name}", f"{'yes' if status.available else 'no'}: {status.reason}")
        for name, status in ncfast.backends().items()
    ]
    rows += [("self-check", line) for line in ncfast.backends()["triton"].verdicts]
    for name, value in rows:
        print(f"{name:<18} {value}")
    return status


def _check_gpu() -> int:
    """Check the kernels on every CUDA device; 1 if that is not possible."""
    from ncfast.self_check.command import check_all

    why_not = check_all(lambda line: print(line, file=sys.stderr, flush=True))
    if why_not is not None:
        print(f"ncfast: the GPU kernels cannot be checked: {why_not}", file=sys.stderr)
        return 1
    return 0


def _cuda_devices() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "sweep": _sweep,
    "report": _report,
    "eval": _eval,
    "bench": _bench,
    "info": _info,
}
