"""Tests that wrong input raises an error that names the argument, the value and the remedy."""

import numpy as np
import pytest
import torch
from torch.masked import masked_tensor

import ncfast

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def nested():
    return torch.nested.nested_tensor([*X])


def masked(values):
    return masked_tensor(values, values == values)


def call(feats=X, labels=Y, **options):
    return ncfast.class_moments(feats, labels, **{"num_classes": 3, **options})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": ["a", "b"]}, TypeError, r"numpy\.unique\(labels, return_inverse=True\)\[1\]"),
        ({"feats": [["a"]]}, TypeError, r"`feats` to be a torch.Tensor or an array.*got list.*<U1"),
        ({"feats": [[1.0], [1.0, 2.0]]}, TypeError, "`feats`.*list that NumPy cannot read"),
        ({"feats": np.ma.masked_less(X.numpy(), 0)}, ValueError, "`feats` without masked entries"),
        ({"feats": X.numpy().astype(np.longdouble)}, TypeError, r"dtype that torch has.*astype"),
        ({"labels": list("abcdef")}, TypeError, r"`labels` to be a torch.Tensor or an array"),
        ({"labels": None}, TypeError, "`labels` to be an array but got None"),
        ({"feats": X[0]}, ValueError, r"\(N, D\) but got shape \(4,\).*unsqueeze"),
        ({"feats": X.view(6, 2, 2)}, ValueError, r"\(6, 2, 2\).*flatten\(1\).*mean\(1\)"),
        ({"feats": X.view(6, 1, 2, 2)}, ValueError, r"flatten\(1\).*mean\(\(2, 3\)\)"),
        ({"feats": X.view(6, 1, 1, 2, 2)}, ValueError, r"flatten\(1\)"),
        ({"feats": X[:, :0]}, ValueError, "at least one column"),
        ({"feats": X.int()}, TypeError, r"`feats` to be float16.*torch.int32.*feats.float\(\)"),
        ({"feats": X.to(torch.complex64)}, TypeError, "complex64"),
        ({"labels": Y.float()}, TypeError, r"integer dtype but got torch.float32.*labels.long\(\)"),
        ({"labels": Y > 1}, TypeError, "integer dtype but got torch.bool"),
        ({"labels": torch.eye(3).int()[Y]}, ValueError, r"\(N,\) but got \(6, 3\).*argmax"),
        ({"labels": Y[:4]}, ValueError, "same length but got 6 rows and 4 labels"),
        ({"feats": X[:0], "labels": Y[:0]}, ValueError, r"at least one row.*ClassMoments\.empty"),
        ({"labels": Y.to("meta")}, ValueError, r"cpu and meta.*labels.to\(feats.device\)"),
        ({"labels": Y - 1}, ValueError, r"0\.\.2 but row 0 holds -1"),
        ({"labels": Y + (Y == 2)}, ValueError, r"0\.\.2 but row 2 holds 3"),
        ({"labels": Y - 1, "num_classes": None}, ValueError, "row 0 holds -1"),
        ({"num_classes": 0}, ValueError, "`num_classes` to be at least 1 but got 0"),
        ({"num_classes": 3.0}, TypeError, "`num_classes` to be an int but got float"),
        ({"num_classes": True}, TypeError, "`num_classes` to be an int but got bool"),
        ({"validate": "everything"}, ValueError, "'shape' or 'full' but got 'everything'"),
        ({"backend": "quantum"}, ValueError, r"`backend` to be one of.*'quantum'"),
        ({"backend": "triton"}, ValueError, "'triton' cannot run here: "),
    ],
)
def test_message(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


@pytest.mark.filterwarnings("ignore:The PyTorch API of:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nested, r"`feats` to be a dense tensor but got a nested tensor.*unbind"),
        (lambda: masked(X), r"`feats` to be a dense tensor but got a MaskedTensor.*masked"),
        (lambda: X.to_sparse(), r"`feats` to be a dense tensor but got layout .*to_dense"),
    ],
)
def test_tensors_that_are_not_dense(make, message):
    feats = make()
    moments = ncfast.ClassMoments.empty(3, 4)
    calls = [call, ncfast.rnc1, ncfast.collapse_metrics, ncfast.Accumulator(3).update]
    for function in (*calls, moments.update_, ncfast.losses.rnc1):
        with pytest.raises(TypeError, match=message):
            function(feats, Y)
    with pytest.raises(TypeError, match=message.replace("feats", "weight")):
        ncfast.nc3(X, Y, feats)
    with pytest.raises(TypeError, match="`labels` to be a dense tensor but got a MaskedTensor"):
        call(X, masked(Y))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_full_validation_names_the_first_bad_row(value):
    feats = X.clone()
    feats[4, 1] = feats[5, 0] = value
    with pytest.raises(ValueError, match=rf"row 4 holds {value} in column 1"):
        call(feats, validate="full")
    assert call(feats).norm_sum.isfinite().logical_not(), "the default lets it through, visibly"


def test_full_validation_beyond_the_first_block():
    feats = torch.zeros(3000, 2048)
    feats[2999, 7] = torch.nan
    with pytest.raises(ValueError, match="row 2999 holds nan in column 7"):
        ncfast.class_moments(feats, torch.zeros(3000, dtype=torch.uint8), validate="full")


def test_merge_type_of_num_classes_in_empty():
    with pytest.raises(ValueError, match="at least 1"):
        ncfast.ClassMoments.empty(0, 3)
