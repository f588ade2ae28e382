"""Tests that wrong input raises an error that names the argument and the remedy."""

import math

import numpy as np
import pytest
import torch
from truths import normal

import ncfast
from ncfast.information.duplicates import count_duplicates, multiplicity, row_codes
from ncfast.information.preprocess import by_class, normal_scores, power_of_two, standardize
from ncfast.information.samples import check_same

X, Y = normal(30, 2), normal(30, 1, seed=1)
LABELS = torch.arange(30) % 3
CALLS = {
    "entropy": lambda x, **o: ncfast.entropy(x, **o),
    "mutual_information": lambda x, **o: ncfast.mutual_information(x, Y, **o),
    "conditional": lambda x, **o: ncfast.conditional_mutual_information(x, Y, Y, **o),
    "label_information": lambda z, **o: ncfast.label_information(z, LABELS, **o),
}
NAN = torch.where(torch.arange(60).view(30, 2) == 9, torch.nan, X)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        ("abc", {}, TypeError, "hold real numbers but got strings|got <U3"),
        ({"a": 1}, {}, TypeError, "hold real numbers but got dict"),
        ([[1.0, 2.0], [1.0]], {}, TypeError, "got list that NumPy cannot read"),
        (np.array(["a", "b"]), {}, TypeError, "hold real numbers but got <U1"),
        (np.ma.masked_greater(X.numpy(), 1), {}, ValueError, "without masked entries"),
        (X.numpy() > 0, {}, TypeError, r"got bool. Pass np.asarray\(\w+, dtype=float\)"),
        (X.view(30, 1, 2).numpy(), {}, ValueError, r"np.reshape\(\w+, \(len"),
        (X.to(torch.complex64), {}, TypeError, "hold real numbers but got torch.complex64"),
        (X > 0, {}, TypeError, "hold real numbers but got torch.bool"),
        (X.view(30, 1, 2), {}, ValueError, r"shape \(N,\) or \(N, d\).*flatten\(1\)"),
        (X[:, :0], {}, ValueError, "N, d > 0"),
        (None, {}, TypeError, "to be an array but got None"),
        (X.to("meta"), {}, TypeError, "a tensor on the meta device"),
        (X.to_sparse(), {}, TypeError, r"a sparse one. Pass \w+.to_dense\(\)"),
        (NAN, {}, ValueError, "to be finite but row 4 holds nan in column 1"),
        (X / 0, {}, ValueError, "to be finite but row 0 holds -?inf"),
        (X, {"k": 30}, ValueError, r"`k` to lie in 1..29 for 30 samples but got 30"),
        (X, {"k": 0}, ValueError, "`k` to lie in 1..29"),
        (X, {"k": 2.0}, TypeError, "`k` to be an int but got float"),
        (X, {"backend": "quantum"}, ValueError, "quantum"),
    ],
)
def test_samples(call, x, options, error, message):
    with pytest.raises(error, match=message):
        call(x, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ncfast.mutual_information(X, Y[:20]), "`x` and `y` to have the same length"),
        (lambda: ncfast.label_information(X, LABELS[:20]), "`z` and `labels` to have the same"),
        (lambda: ncfast.mutual_information(X, Y, method="lnc"), "`method` to be one of 'ksg'"),
        (lambda: ncfast.mutual_information(X, Y, metric="l2"), "`metric` to be one of 'l2max'"),
        (lambda: ncfast.mutual_information(X, Y, preprocess="pca"), "`preprocess` to be one of"),
        (lambda: ncfast.entropy(X, metric="l1"), "`metric` to be one of 'l2', 'linf' but got 'l1'"),
        (lambda: ncfast.entropy(X, duplicates="keep"), "`duplicates` to be one of 'warn', 'drop'"),
        (lambda: ncfast.label_information(X, LABELS, method="knn"), "`method` to be one of 'ross'"),
        (lambda: ncfast.label_information(X, LABELS.view(30, 1)), r"shape \(N,\) with N > 0"),
        (lambda: ncfast.discrete_mutual_information(LABELS, LABELS, correction=1), "`correction`"),
    ],
)
def test_pairs_and_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()


SAME = {
    "list": lambda rows: rows.tolist(),
    "tuple": lambda rows: tuple(map(tuple, rows.tolist())),
    "rows": list,
    "big-endian": lambda rows: rows.astype(">f8"),
    "longdouble": lambda rows: rows.astype(np.longdouble),
    "float16": lambda rows: rows.astype(np.float16),
    "float32": lambda rows: rows.astype(">f4"),
    "object": lambda rows: rows.astype(object),
    "not masked": lambda rows: np.ma.masked_invalid(rows),
    "reversed": lambda rows: rows[::-1].copy()[::-1],
    "integers": lambda rows: (rows * 64).astype(">i4"),
    "unsigned": lambda rows: (rows * 64 + 1000).astype(np.uint64),
    "grad": lambda rows: torch.from_numpy(rows).requires_grad_(),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_the_same_numbers_in_any_container(make):
    rows = np.round(X.numpy() * 64) / 64  # exact in half precision
    y = [[float(value)] for value in Y]
    for call in (ncfast.mutual_information, ncfast.cka, ncfast.nhsic):
        assert float(call(make(rows), y)) == pytest.approx(float(call(rows, Y)), abs=1e-9)


LABELLED = {
    "list": LABELS.tolist(),
    "names": [["ant", "bee", "cat"][label] for label in LABELS],
    "name array": np.array(["ant", "bee", "cat"])[LABELS.numpy()],
    "objects": np.array(["ant", "bee", "cat"], dtype=object)[LABELS.numpy()],
    "big-endian": LABELS.numpy().astype(">i2"),
    "uint64": LABELS.numpy().astype(np.uint64),
}


@pytest.mark.parametrize("labels", LABELLED.values(), ids=LABELLED)
def test_labels_of_any_kind(labels):
    expected = ncfast.label_information(X, LABELS, k=3)
    assert ncfast.label_information(X, labels, k=np.int64(3)).value == expected.value
    assert ncfast.discrete_mutual_information(labels, LABELS).value == pytest.approx(np.log(3))


def test_two_classes_as_booleans():
    found = ncfast.label_information(X, [bool(label) for label in LABELS > 0])
    assert found.value == ncfast.label_information(X, (LABELS > 0).long()).value


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (LABELS.double().numpy(), TypeError, r"got float64.*np.asarray\(labels\).astype"),
        (np.eye(3)[LABELS], ValueError, r"one-hot rows use np.argmax\(labels, 1\)"),
        (np.array([["a"]] * 30), ValueError, r"Pass np.ravel\(labels\)"),
        (["a", None] * 15, ValueError, "row 1 holds None"),
        (np.ma.masked_equal(LABELS.numpy(), 1), ValueError, "without masked entries"),
    ],
)
def test_wrong_labels_get_a_remedy_that_exists(labels, error, message):
    with pytest.raises(error, match=message) as caught:
        ncfast.label_information(X.numpy(), labels)
    assert ".long()" not in str(caught.value)


def test_numpy_integers_count_neighbours():
    found = ncfast.mutual_information(X, Y, k=np.int32(4))
    assert type(found.k) is int
    assert found.value == ncfast.mutual_information(X, Y, k=4).value
    with pytest.raises(TypeError, match="`k` to be an int but got bool"):
        ncfast.entropy(X, k=np.True_)


@pytest.mark.parametrize("power", [-300, -165, 300])
def test_units_at_the_ends_of_the_range(power):
    expected = ncfast.mutual_information(X, Y, stderr=False).value
    found = ncfast.mutual_information(X * 10.0**power, Y * 10.0**-power, stderr=False)
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_devices_must_be_the_same():
    with pytest.raises(ValueError, match="`x` and `y` on the same device but got cpu and meta"):
        check_same(x=X, y=Y.to("meta"))


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match=r"`labels` to hold integers but got torch.float64"):
        ncfast.label_information(X, LABELS.double())


def test_numpy_views_and_read_only_arrays():
    rows = np.arange(60.0).reshape(30, 2) ** 1.5
    rows.flags.writeable = False
    base = ncfast.entropy(rows, stderr=False).value
    assert ncfast.entropy(rows[::-1], stderr=False).value == pytest.approx(base, abs=1e-12)
    assert ncfast.entropy(np.asfortranarray(rows), stderr=False).value == base


def test_rows_are_counted_by_their_bits():
    rows = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]).double()
    assert count_duplicates(rows) == 2
    assert multiplicity(rows).tolist() == [3, 3, 1, 3, 1]
    assert multiplicity(rows, torch.tensor([0, 0, 0, 1, 1])).tolist() == [2, 2, 1, 1, 1]
    grid = torch.cartesian_prod(torch.arange(200.0), torch.arange(200.0)).double()
    assert len(row_codes(grid).unique()) == len(grid)


def test_preprocessing():
    rows = torch.stack((normal(50), torch.full((50,), 0.1).double(), 1e9 + normal(50, seed=3)), 1)
    found = standardize(rows)
    assert found.mean(0) == pytest.approx(0.0, abs=1e-6)
    assert found[:, [0, 2]].square().mean(0) == pytest.approx(1.0)
    assert not found[:, 1].any()
    scores = normal_scores(torch.tensor([[3.0], [1.0], [1.0], [10.0]]).double())
    assert scores[1] == scores[2] < scores[0] < scores[3]
    inside = by_class(standardize, rows, torch.arange(50) % 2)
    assert torch.allclose(inside[::2], standardize(rows[::2]))
    assert float(torch.log2(power_of_two(rows))) % 1 == 0
    assert float(power_of_two(torch.ones(3, 1).double())) == 1


def test_bits():
    found = ncfast.mutual_information(torch.arange(40) % 2, torch.arange(40) % 2)
    bits = found.in_bits()
    assert (bits.value, bits.unit) == (pytest.approx(found.value / math.log(2)), "bits")
    assert bits.stderr == pytest.approx(found.stderr / math.log(2))
    assert bits.in_bits() is bits
    share = ncfast.information_correlation(found)
    assert ncfast.information_correlation(bits) == pytest.approx(share)
    assert str(bits).endswith(" bits")
    assert str(found).endswith(" nats")


def test_errors_of_kernels_name_the_argument():
    with pytest.raises(ValueError, match="`x` without masked entries"):
        ncfast.cka(np.ma.masked_greater(X[:, 0].numpy(), 1), Y)
    with pytest.raises(TypeError, match="`y` to hold values"):
        ncfast.nhsic(X, LABELS.to("meta"))
    with pytest.raises(TypeError, match="`labels` to hold values"):
        ncfast.label_information(X, LABELS.to("meta"))


def test_objects_that_are_numbers_are_no_labels():
    column = X[:, 0].numpy()
    assert ncfast.cka(column.astype(object), Y) == ncfast.cka(column, Y)
    whole = LABELS.numpy().astype(object)
    assert ncfast.cka(whole, Y) == ncfast.cka(LABELS, Y)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2 has it")
def test_variable_width_strings_are_labels():
    names = np.array(["a", "bb", "c"], dtype=np.dtypes.StringDType())[LABELS.numpy()]
    assert ncfast.label_information(X, names).value == ncfast.label_information(X, LABELS).value
    assert ncfast.cka(names, Y) == ncfast.cka(LABELS, Y)
