"""Leaves these tests out where Triton is missing, or where it interprets kernels."""

import importlib.util
import os

# Triton decides at its import whether it interprets
ABSENT = importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = ["*.py"] if ABSENT else []
