"""Parses the PTX of one kernel into instructions and the registers they name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
DTYPES: dict[str, Any] = {
    **{f"{k}{8 * n}": np.dtype(f"{c}{n}") for n in (1, 2, 4, 8) for k, c in ("bu", "uu", "si")},
    "f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8"),
    "bf16": np.dtype("u2"), "pred": np.dtype(bool), "bf16x2": np.dtype("u4"),
    "f16x2": np.dtype("u4"), "tf32": np.dtype("u4"),
}  # fmt: skip
_STATEMENT = re.compile(r"\s*(?:(\{)|(\})|([\w$]+):(?!:)|(\.loc[^\n]*\n)|([^;]+);)")
_INSTRUCTION = re.compile(r"(?:@(!?)(%?\w+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)
_KINDS = {"bra": "branch", "ret": "exit", "exit": "exit", "bar": "barrier", "barrier": "barrier"}


@dataclass
class Instruction:
    """``@guard opcode args;``"""

    text: str
    source: str  # file and line of the kernel
    guard: tuple[int, bool] | None  # predicate register, and whether it is negated
    parts: list[str]  # the opcode, split at dots
    args: list[str]
    scope: str
    kind: str  # branch, barrier, exit or plain
    target: int = -1  # of a branch
    run: Callable[[Any, Any], None] | None = None  # of a plain one: see `instructions`


@dataclass
class Kernel:
    """The entry of a PTX module."""

    name: str
    threads: int
    params: dict[str, str]  # type by name
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)  # number by name and scope
    dtypes: list[np.dtype[Any]] = field(default_factory=list)  # of the registers, without sign

    def register(self, name: str, scope: str) -> int | None:
        """The number of a register; the scope's own names hide those of the whole kernel."""
        return self.registers.get(name + scope, self.registers.get(name))


def parse(text: str) -> Kernel:
    """The kernel of a module with one ``.entry``."""
    head = re.search(r"\.entry\s+(\w+)\s*\(([^)]*)\)([^{]*)\{", text)
    threads = head and re.search(r"\.reqntid\s+(\d+)", head[3])
    if not head or not threads:
        raise ValueError("expected PTX with an .entry that has .reqntid")
    params = re.findall(r"\.param\s+\.(\w+)[^,]*?(\w+)\s*(?:,|$)", head[2].strip())
    kernel = Kernel(head[1], int(threads[1]), {name: kind for kind, name in params})
    # a comment that names a line of the kernel's source is kept
    _read(kernel, re.sub(r"//(?! \w+\.py:)[^\n]*", "", text[head.end() :]))
    for instruction in kernel.instructions:
        if instruction.kind == "branch":
            instruction.target = kernel.labels[instruction.args[-1]]
    return kernel


def _read(kernel: Kernel, body: str) -> None:
    scopes, number, source, position = [""], 0, "", 0
    while match := _STATEMENT.match(body, position):
        position = match.end()
        opened, closed, label, line, statement = match.groups()
        if opened:
            number += 1
            scopes.append(f"@{number}")
        elif closed:
            scopes.pop()
            if not scopes:
                return
        elif label:
            kernel.labels[label] = len(kernel.instructions)
        elif line:
            place = re.search(r"// (\w+\.py:\d+)", line)
            source = place[1] if place else source
        else:
            statement = re.sub(r"//[^\n]*", "", statement).strip()
            if statement.startswith(".reg"):
                _declare(kernel, statement, scopes[-1])
            elif not statement.startswith("."):
                kernel.instructions.append(_instruction(kernel, statement, source, scopes[-1]))
    raise ValueError("the kernel has no end")


def _declare(kernel: Kernel, statement: str, scope: str) -> None:
    _, kind, names = statement.split(None, 2)
    dtype = DTYPES[kind[1:]]
    raw = dtype if dtype.kind == "b" else np.dtype(UNSIGNED[dtype.itemsize])
    for name in names.split(","):
        several = re.fullmatch(r"\s*(%?\w+)<(\d+)>\s*", name)
        numbers = range(int(several[2])) if several else ()
        every = [f"{several[1]}{i}" for i in numbers] if several else [name.strip()]
        for each in every:
            kernel.registers[each + scope] = len(kernel.dtypes)
            kernel.dtypes.append(raw)


def _instruction(kernel: Kernel, statement: str, source: str, scope: str) -> Instruction:
    match = _INSTRUCTION.fullmatch(statement)
    if not match:
        raise ValueError(f"not an instruction: {statement}")
    guard = None
    if match[2]:
        number = kernel.register(match[2], scope)
        if number is None:
            raise ValueError(f"undeclared predicate: {statement}")
        guard = number, bool(match[1])
    parts = match[3].split(".")
    args = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^\s,{}\[\]]+", match[4])
    kind = _KINDS.get(parts[0], "plain")
    return Instruction(" ".join(statement.split()), source, guard, parts, args, scope, kind)
