import os
from pathlib import Path

import pytest
import torch

# the tests are many and small; idle threads that spin would slow each other
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the public datasets, or a skip with the reason."""
    found = os.environ.get("NCFAST_DATA")
    if not found or not Path(found).is_dir():
        pytest.skip("needs NCFAST_DATA to point at the public datasets")
    return Path(found)
