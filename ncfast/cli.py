"""The ``ncfast`` command."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")
_EXTRA = "more packages: pip install 'ncfast[experiments]'"
# what a user can cause and mend: shown as one line, without a traceback
_USER_ERRORS = (OSError, ValueError, RuntimeError)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(f"ncfast: unknown command {arguments[0]!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        return command(arguments[1:])
    except KeyboardInterrupt:
        print("ncfast: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        print(f"ncfast: {error}. The experiments need {_EXTRA}", file=sys.stderr)
        return 1
    except _USER_ERRORS as error:
        print(f"ncfast: {error}", file=sys.stderr)
        return 1


def _usage() -> str:
    lines = [f"  {name:<8} {function.__doc__}" for name, function in COMMANDS.items()]
    return "\n".join(["usage: ncfast COMMAND [options]   (ncfast COMMAND --help)", "", *lines])


def _parse(
    kind: type[Config], command: str, arguments: Sequence[str], default: Config | None = None
) -> Config:
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"ncfast {command}", args=arguments, **options)


def _train(arguments: Sequence[str]) -> int:
    """Train a network and track its collapse."""
    from ncfast.experiments.config import TrainConfig

    config = _parse(TrainConfig, "train", arguments)
    if config.resume:
        from ncfast.experiments.run_dir import load_config

        # what is not given on the command line stays as it was
        saved = TrainConfig.from_settings(load_config(config.out)["settings"], config.out)
        config = _parse(TrainConfig, "train", arguments, saved)
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
    from ncfast.experiments.sweep_file import load_sweep

    config = _parse(SweepConfig, "sweep", arguments)
    # what is not given on the command line comes from the sweep that is resumed, or the preset
    if config.resume:
        saved = SweepConfig.from_settings(load_sweep(config.out)["settings"], config.out)
        config = _parse(SweepConfig, "sweep", arguments, saved)
    elif config.preset is not None:
        config = _parse(SweepConfig, "sweep", arguments, expand(config))
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
    """Draw the report of one run, or of several beside each other."""
    from ncfast.experiments.config import ReportConfig

    config = _parse(ReportConfig, "report", arguments)
    from ncfast.experiments.report import build_report

    report = build_report(config.runs, config.out)
    for path in (*report.pictures, report.html):
        print(path)
    return 0


def _bench(arguments: Sequence[str]) -> int:
    """Time every operation against plain torch and libraries, accuracy first."""
    from ncfast.benchmarks.config import BenchConfig

    config = _parse(BenchConfig, "bench", arguments)
    from ncfast.benchmarks.bench import bench, compare_files

    if config.compare is not None:
        return int(compare_files(*config.compare))
    bench(config)
    return 0


def _info(arguments: Sequence[str]) -> int:
    """Show versions, devices, and which backends can run here and why."""
    if arguments:
        print("usage: ncfast info", file=sys.stderr)
        return 0 if arguments[0] in ("-h", "--help") else 2
    import numpy
    import torch

    import ncfast

    rows: list[tuple[str, Any]] = [
        ("ncfast", ncfast.__version__),
        ("python", platform.python_version()),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("numpy", numpy.__version__),
        ("platform", f"{platform.system()} {platform.machine()}"),
        ("cuda", ", ".join(_cuda_devices()) or "no device"),
    ]
    rows += [
        (f"backend {name}", f"{'yes' if status.available else 'no'}: {status.reason}")
        for name, status in ncfast.backends().items()
    ]
    for name, value in rows:
        print(f"{name:<18} {value}")
    return 0


def _cuda_devices() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "sweep": _sweep,
    "report": _report,
    "bench": _bench,
    "info": _info,
}
