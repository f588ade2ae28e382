"""Options of a command: a dataclass from its arguments, and mistakes as one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")
USAGE = 2  # exit status


def parse(
    kind: type[Config], command: str, arguments: Sequence[str], default: Config | None = None
) -> Config:
    """The settings that ``arguments`` give.

    Args:
        kind: a dataclass.
        command: its name, for help and errors.
        arguments: of the command line.
        default: values of what is not given.

    Raises:
        SystemExit: after the help, with status 0; after one line on stderr, with status 2.
        ModuleNotFoundError: the parser is not installed.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"ncfast {command}", args=arguments, **options)
    except SystemExit as end:
        if not end.code:
            raise
        problem = end.__context__
        text = str(problem) if type(problem) is ValueError else _unboxed(said.getvalue())
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            text = text.replace(f"`{field.name}`", f"--{field.name.replace('_', '-')}")
        print(f"ncfast {command}: {text} (ncfast {command} --help)", file=sys.stderr)
        raise SystemExit(USAGE) from None


def _unboxed(text: str) -> str:
    """What tyro says in a box, in one line: neither its title nor the hint at the help."""
    lines = [line.strip(" │╭╮╰╯") for line in text.splitlines()][1:]
    paragraphs = [[""]]
    for line in lines:
        if line.strip("-─"):
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    told = [" ".join(part).strip() for part in paragraphs if any(part)]
    return "; ".join(told[:-1] or told)
