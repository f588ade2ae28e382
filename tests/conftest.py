"""Settings and fixtures of all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The tests are small, and threads that wait by spinning would slow down other tests.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for processes started by tests


# No test depends on the time it takes, on a machine that other programs use as well.
settings.register_profile("ncfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ncfast")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the public datasets; skips the test if there is none."""
    found = os.environ.get("NCFAST_DATA")
    if not found or not Path(found).is_dir():
        pytest.skip("needs NCFAST_DATA to point at the public datasets")
    return Path(found)
