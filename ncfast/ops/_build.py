"""Says why the C++ extension is missing: once as a warning, and in `ncfast.backends`."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from ncfast._warnings import user_level

INFO = Path(__file__).parent.parent / "_build_info.json"  # written by setup.py
REMEDY = (
    ". To get it, install a C++ compiler, unset NCFAST_PURE, then "
    "pip install --force-reinstall --no-deps --no-cache-dir ncfast"
)
# The reference takes from about half a millisecond longer on features of this many numbers, and
# from some tens of milliseconds longer to find the neighbours of this many rows.
NOTABLE_NUMBERS = 1 << 16
NOTABLE_ROWS = 1000
_warned = False


def why_missing(import_error: str) -> str:
    """The reason why there is no extension.

    Args:
        import_error: what Python said when it was imported.
    """
    if not INFO.exists():
        return f"the C++ extension is not part of this installation: {import_error}"
    info = json.loads(INFO.read_text())
    if info["built"]:
        return f"the C++ extension was built but does not load: {import_error}"
    remedy = "" if sys.platform == "win32" else REMEDY
    return f"the C++ extension was not built: {info['reason']}{remedy}"


def warn_once(import_error: str) -> None:
    """Warn at the first call that the extension would make notably faster."""
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        "This call would be faster with the C++ extension of ncfast, whose results are the same: "
        f"{why_missing(import_error)}",
        RuntimeWarning,
        stacklevel=user_level(),
    )
