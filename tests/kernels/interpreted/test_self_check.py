"""Runs the cases of the self-check on the kernels, in the interpreter: right kernels pass them.

In the two dtypes of the narrowest range and precision; `tests/self_check/test_checks.py` runs the
cases of every dtype on the reference.
"""

import pytest
import torch

from ncfast.self_check import checks, neighbors
from ncfast.self_check.forms import forms

CPU = torch.device("cpu")
FORMS = {f"{form.operation}, {form.path}": form for form in forms()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # of NumPy, at infinite features
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("name", FORMS)
def test_the_kernels_pass(name, dtype):
    assert checks.run(FORMS[name], dtype, CPU) == ""


def test_the_neighbour_search_passes():
    assert neighbors.check("triton", torch.float64, CPU) == ""
