"""Damages the files that ncfast reads; the formats and the damage are those of the tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ncfast.benchmarks.reliability.truth import use_tests


def formats() -> list[str]:
    """The names of the file formats."""
    use_tests()
    import damaged_files

    return list(damaged_files.CASES)


def damage(name: str, count: int, seed: int = 0) -> dict[str, Any]:
    """Try ``count`` mutations of a format.

    Returns:
        Counts: mutations, those that the reader refused in one line, those that it read, and those
        that ended otherwise, which stop the count.
    """
    use_tests()
    import damaged_files

    found: dict[str, Any] = {"mutations": count, "refused": 0, "read": 0, "wrong": 0}
    with tempfile.TemporaryDirectory() as folder:
        try:
            counts = damaged_files.run(name, Path(folder), count, seed)
        except AssertionError as error:
            return found | {"wrong": 1, "problems": [f"{name}: {str(error)[:500]}"]}
    refused, read = counts["clean error"], counts["same result"]
    return found | {"mutations": refused + read, "refused": refused, "read": read, "problems": []}
