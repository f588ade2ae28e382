"""Runs the cases of the self-check on the kernels, in the interpreter: right kernels pass them."""

import pytest
import torch

from ncfast.self_check import checks, neighbors
from ncfast.self_check.forms import forms

CPU = torch.device("cpu")
FORMS = {f"{form.operation}, {form.path}": form for form in forms()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # of NumPy, at infinite features
@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, form in FORMS.items() for dtype in form.dtypes]
)
def test_the_kernels_pass(name, dtype):
    assert checks.run(FORMS[name], dtype, CPU, small=True) == ""


def test_the_neighbour_search_passes():
    assert neighbors.check("triton")(torch.float64, CPU, small=True) == ""
