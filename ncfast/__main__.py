"""``python -m ncfast`` is the ``ncfast`` command."""

import sys

from ncfast.cli import main

sys.exit(main())
