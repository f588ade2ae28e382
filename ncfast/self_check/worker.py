"""Makes the checks, in a process that may crash or hang, and prints a line of JSON for each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ncfast.ops import _verdicts
from ncfast.ops._registry import why_not_compiled
from ncfast.ops._verdicts import Subject, Verdict
from ncfast.self_check import checks, neighbors
from ncfast.self_check.forms import Form, Wrong, forms

MEMORY = 2 << 30  # of the device, for a check beside other programs
LOST = 3  # exit status when the CUDA context is lost


def subjects() -> list[Subject]:
    """What is checked, in this order: float32 first, because most features are."""
    of_forms = [
        _verdicts.subject(form.operation, form.path, dtype)
        for form in forms()
        for dtype in form.dtypes
    ]
    order = ["float32", "bfloat16", "float16", "float64"]
    return sorted(of_forms, key=lambda each: order.index(each.dtype)) + neighbors.subjects()


def main(text: str) -> None:
    """Check the subjects of a request on one device.

    Args:
        text: JSON with "subjects"; "device"; "facts" of a CUDA device; "alone": whether no other
            program needs its memory.
    """
    request = json.loads(text)
    device = torch.device(request["device"])
    why_not = _why_not(device, request["facts"])
    if why_not is not None:
        _say(stop=why_not)
        return
    torch.set_float32_matmul_precision("high")  # no kernel may depend on it
    if device.type == "cuda" and not request["alone"]:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY / whole), device)
    for each in request["subjects"]:
        subject = Subject(*each)
        _say(begin=subject)
        verdict = examine(subject, device, alone=request["alone"])
        if _lost(device):
            _say(end=subject, verdict=Verdict("crashed", verdict.reason or "the device failed"))
            os._exit(LOST)
        _say(end=subject, verdict=verdict)


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def _why_not(device: torch.device, facts: Any) -> str | None:
    """The reason why this process cannot check the device; None if it can."""
    if device.type != "cuda":
        return None
    try:
        torch.zeros(1, device=device).add_(1).cpu()
    except Exception as error:  # of a driver, or of torch without CUDA
        return f"a second process cannot use the device: {_first_line(error)}"
    if _verdicts.facts(0) != facts:
        return "a second process sees another device or other versions"
    return None


def examine(subject: Subject, device: torch.device, *, alone: bool) -> Verdict:
    """The verdict on one subject. A kernel that hangs or crashes gives none."""
    try:
        return Verdict("ok", _check(subject)(getattr(torch, subject.dtype), device, alone))
    except Wrong as error:
        return Verdict("failed", str(error))
    except torch.OutOfMemoryError:
        return Verdict("unchecked", "the memory of the device was full")
    except neighbors.Missing as error:
        return Verdict("unchecked", str(error))
    except Exception as error:  # whatever a compiler, a launcher or a driver raises
        return Verdict("failed", f"{type(error).__name__}: {_first_line(error)}")


def _check(subject: Subject) -> Callable[..., str]:
    """The function that checks a subject."""
    why_not = why_not_compiled(subject.operation)
    if why_not is not None:
        raise neighbors.Missing(why_not)
    if subject.operation == neighbors.NAME:
        return lambda dtype, device, alone: neighbors.check(subject.path, dtype, device)
    form = _find(forms(), subject)
    return lambda dtype, device, alone: checks.run(form, dtype, device, far=alone)


def _find(known: Sequence[Form], subject: Subject) -> Form:
    return next(form for form in known if (form.operation, form.path) == subject[:2])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""


def _lost(device: torch.device) -> bool:
    """Whether the CUDA context is lost, for example after an illegal address."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
