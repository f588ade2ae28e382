"""Imports the package before pytest collects its files for doctests.

Otherwise pytest would import a package whose parent is not there yet, and then once more.
"""

import ncfast  # noqa: F401
