"""Runs the ``ncfast`` command by ``python -m ncfast``."""

import sys

from ncfast.cli import main

sys.exit(main())
