"""`Scalar` against tensors of float64, bit by bit, at zeros, infinities, NaN and huge numbers."""

import itertools
import math
import operator

import pytest
import torch

from ncfast.ops.scalars import Scalar, as_tensor, as_tensors

VALUES = (0.0, -0.0, 1.0, -3.0, 0.1, 1e308, 5e-324, math.inf, -math.inf, math.nan)
BINARY = (operator.add, operator.sub, operator.mul, operator.truediv)
UNARY = (operator.neg, lambda value: value.square(), lambda value: value.sqrt())


def wide(value):
    return torch.tensor(value, dtype=torch.float64)


def same(found, expected):
    """Equal bits, the sign of zero included, NaN aside."""
    assert found.dtype == torch.float64
    assert found.shape == ()
    if torch.isnan(expected):
        assert torch.isnan(found)
    else:
        assert found.view(torch.int64).item() == expected.view(torch.int64).item()


@pytest.mark.parametrize("operation", BINARY)
@pytest.mark.parametrize(("one", "other"), [*itertools.product(VALUES, VALUES)])
def test_operations_are_those_of_tensors(operation, one, other):
    expected = operation(wide(one), wide(other))
    for left, right in (
        (Scalar(one), Scalar(other)),
        (Scalar(one), other),
        (one, Scalar(other)),
    ):
        found = operation(left, right)
        assert type(found) is Scalar
        same(as_tensor(found), expected)


@pytest.mark.parametrize("operation", BINARY)
@pytest.mark.parametrize(("one", "other"), [*itertools.product(VALUES, VALUES)])
def test_a_tensor_takes_it_as_a_number(operation, one, other):
    same(operation(Scalar(one), wide(other)), operation(one, wide(other)))
    same(operation(wide(one), Scalar(other)), operation(wide(one), other))


@pytest.mark.parametrize("operation", UNARY)
@pytest.mark.parametrize("value", VALUES)
def test_functions_are_those_of_tensors(operation, value):
    found = operation(Scalar(value))
    assert type(found) is Scalar
    same(as_tensor(found), operation(wide(value)))


@pytest.mark.parametrize("operation", BINARY)
def test_what_is_no_number_is_refused(operation):
    for left, right in ((Scalar(1), "1"), (None, Scalar(1))):
        with pytest.raises(TypeError):
            operation(left, right)


def test_values_become_tensors_in_their_order():
    rows = torch.ones(2)
    found = as_tensors([Scalar(1), rows, Scalar(2), wide(3.0)])
    assert found[1] is rows
    assert [value.tolist() for value in found] == [1.0, [1.0, 1.0], 2.0, 3.0]
    assert [value.tolist() for value in as_tensors([Scalar(1), Scalar(2)])] == [1.0, 2.0]
    assert as_tensors([]) == []
    assert as_tensor(rows) is rows
    assert as_tensors([Scalar(1)])[0].dtype == torch.float64
