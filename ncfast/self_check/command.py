"""What ``ncfast info --check-gpu`` does: checks every CUDA device and waits for the verdicts."""

from __future__ import annotations

from collections.abc import Callable

from ncfast.ops import _background, _verdict_table, _verdicts
from ncfast.ops._registry import why_not_triton
from ncfast.ops._verdicts import Subject, Verdict
from ncfast.self_check.supervisor import check_device


def check_all(say: Callable[[str], None]) -> str | None:
    """Check the kernels on every CUDA device, whatever earlier checks found.

    Args:
        say: is called with a line for each verdict.

    Returns:
        The reason why nothing could be checked; None if it was.

    """
    why_not = why_not_triton()
    if why_not is not None:
        return why_not
    for table in _verdict_table.tables():
        if (problem := _background.settle_file(table)) is not None:
            say(
                f"the verdicts cannot be kept ({problem}): set XDG_CACHE_HOME to a folder that can "
                "be written to"
            )
        assert table.file is not None
        device = f"cuda:{table.number} ({table.facts['device']})"
        say(f"{device}: checking the kernels; this takes some minutes")

        def report(subject: Subject, verdict: Verdict, device: str = device) -> None:
            named = ", ".join(part for part in subject if part)
            say(f"{device}: {named}: {verdict}")

        check_device(
            table.file, table.facts, _background.visible_name(table.number), report, alone=True
        )
        _verdicts.read(table)
    return None
