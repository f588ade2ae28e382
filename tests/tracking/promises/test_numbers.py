"""What a user logs is in the log, under its own key and step, or is refused at the call."""

import functools
import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from samples import classes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ncfast.tracking import Tracker, read_records

NUMBERS = {
    "float": 0.5,
    "int": 3,
    "bool": True,
    "long": 10**17 + 1,
    "huge": 10**200,
    "Decimal": Decimal("0.25"),
    "Fraction": Fraction(1, 4),
    "np.float32": np.float32(0.1),
    "np.float16": np.float16(0.5),
    "np.longdouble": np.longdouble(0.5),
    "np.int64": np.int64(7),
    "np.bool": np.bool_(True),
    "array": np.array(2.5),
    "array of one": np.array([2]),
    "array of an object": np.array(Decimal("0.5"), dtype=object),
    "tensor": torch.tensor(0.5),
    "tensor of one": torch.tensor([[4.0]]),
    "gradient": torch.tensor(0.5, requires_grad=True) * 2,
    "parameter": nn.Parameter(torch.tensor([1.5])),
    "negative bit": torch.tensor([1 + 2j]).conj().imag,
    "sparse": torch.tensor([2.0]).to_sparse(),
    "nan": math.nan,
    "inf": torch.tensor(-math.inf),
    **{str(d): torch.tensor(1, dtype=d) for d in (torch.bool, torch.uint8, torch.int64)},
    **{str(d): torch.tensor(0.5, dtype=d) for d in (torch.float16, torch.bfloat16, torch.float64)},
    **{str(d): torch.tensor(2).to(d) for d in (torch.uint16, torch.uint64, torch.float8_e5m2)},
}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_every_kind_of_number_becomes_one_and_nothing_is_shifted(tmp_path, suffix):
    """The value under a key is the one that was logged under it, in a block of many steps."""
    feats, labels = classes()
    path = tmp_path / f"log.{suffix}"
    with Tracker(num_classes=5, metrics="rnc1", sinks=[path], log_cost=False) as tracker:
        for step in range(1, 40):
            tracker.step(feats=feats, labels=labels)
            tracker.log(NUMBERS)
            tracker.log({"late": torch.tensor(float(step)), "host": step})
    records = list(read_records(path))
    assert len(records) == 39
    for record in records:
        assert record["late"] == record["host"] == record["step"]
        for key, value in NUMBERS.items():
            assert repr(record[key]) == repr(expected(value)), key


def expected(value):
    """Integers of Python stay exact up to 2^63; a bool is a number; all else is a float."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to_dense().to(torch.float64).item()
    elif isinstance(value, (np.ndarray, np.generic)):
        value = value.item()
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else float(value)
    return float(value)


NO_NUMBERS = {
    "vector": torch.tensor([1.0, 2.0, 3.0]),
    "empty": torch.empty(0),
    "complex": torch.tensor(1j),
    "array": np.arange(3),
    "empty array": np.empty(0),
    "complex scalar": np.complex64(1j),
    "masked": np.ma.masked,
    "date": np.datetime64("2026-01-01"),
    "np.str": np.str_("3"),
    "python complex": 1j,
    "text": "0.5",
    "bytes": b"1",
    "none": None,
    "list": [1.0],
    "dict": {"a": 1.0},
    "module": nn.Linear(1, 1),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number_is_an_error_at_the_call_that_names_the_key(kind):
    """The other values of the call are not logged either, and those before and after are right."""
    feats, labels = classes()
    records = []
    with Tracker(num_classes=5, sinks=[records.append], log_cost=False) as tracker:
        tracker.step(feats=feats, labels=labels)
        tracker.log({"before": torch.tensor(1.0)})
        with pytest.raises(TypeError, match=r"'per/class' to be one real number.*Log a mean"):
            tracker.log({"good": 1.0, "per/class": NO_NUMBERS[kind]})
        tracker.log({"after": torch.tensor(2.0)})
        tracker.step(feats=feats, labels=labels)
        tracker.log({"next": torch.tensor(3.0)})
    first, second = records
    assert (first["before"], first["after"], second["next"]) == (1.0, 2.0, 3.0)
    assert "good" not in first
    assert first["train/rnc1.max"] == second["train/rnc1.max"]


@pytest.mark.parametrize("value", [10**400, Decimal("1e400"), Fraction(10**400)])
def test_a_number_that_no_float_holds_is_refused(value):
    with pytest.raises(ValueError, match="'x' to fit into a float"):
        Tracker(num_classes=2).log({"x": value})


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("step", ValueError),
        ("nonfinite", ValueError),
        ("", ValueError),
        ("train/rnc1.max", ValueError),
        ("test/nc2.condition", ValueError),
        ("weight.norm", ValueError),
        ("tracker/seconds", ValueError),
        ("half \ud800 pair", ValueError),
        (3, TypeError),
        (("a", "b"), TypeError),
    ],
)
def test_keys_of_the_record_and_of_metrics_are_refused(key, error):
    x, y = classes(dtype=torch.float32)
    model, records = nn.Sequential(nn.Linear(12, 5)), []
    with Tracker(model, num_classes=5, sinks=[records.append]) as tracker:
        model(x)
        tracker.step(labels=y)
        with pytest.raises(error, match="keys of `values`"):
            tracker.log({"mine": 1.0, key: -5})
        tracker.log({"teacher/rnc1.max": 2.0, "train/loss": 3.0})
    assert records[0]["step"] == 1
    assert records[0]["train/rnc1.max"] > 0
    assert "mine" not in records[0]
    assert records[0]["teacher/rnc1.max"] == 2.0


def test_a_score_of_a_snapshot_is_refused_and_never_replaced():
    x, y = classes(dtype=torch.float32)
    model, records = nn.Sequential(nn.Linear(12, 5)), []
    with Tracker(model, num_classes=5, sinks=[records.append]) as tracker:
        tracker.log({"test/accuracy": -1.0})
        with pytest.warns(RuntimeWarning, match="writes 'test/accuracy'.*snapshot's is kept"):
            tracker.snapshot([(x, y)])
        with pytest.raises(ValueError, match="'test/accuracy'"):
            tracker.log({"test/accuracy": -1.0})
        tracker.log({"test/loss": 3.0})  # no loss= was given
    assert 0 <= records[0]["test/accuracy"] <= 1
    assert records[0]["test/loss"] == 3.0


class NothingIsRead(TorchDispatchMode):
    """Raises when the host reads a value of a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_logged_tensor_is_not_read_on_the_host():
    records = []
    with Tracker(num_classes=2, sinks=[records.append], log_cost=False) as tracker:
        loss = torch.ones((), dtype=torch.bfloat16)
        with NothingIsRead():
            tracker.log({"loss": loss, "one": torch.ones(1, 1), "host": 2.0})
            with pytest.raises(AssertionError):
                loss.item()
    assert records == [{"step": 0, "loss": 1.0, "one": 1.0, "host": 2.0}]


@pytest.mark.parametrize("fake", [False, True])
def test_a_tensor_without_data_is_refused_and_the_sink_goes_on(fake):
    records = []
    with FakeTensorMode() if fake else torch.device("meta"):
        value = torch.empty(())
    with Tracker(num_classes=2, sinks=[records.append], log_cost=False) as tracker:
        with pytest.raises(TypeError, match=r"'loss' to hold a number but got a .* has no data"):
            tracker.log({"loss": value, "other": 1.0})
        tracker.log({"loss": 2.0})
    assert records == [{"step": 0, "loss": 2.0}]


def per_sample(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


LOSSES = {
    "mean module": (nn.CrossEntropyLoss(), None),
    "sum module": (nn.CrossEntropyLoss(reduction="sum"), None),
    "none module": (nn.CrossEntropyLoss(reduction="none"), None),
    "mean function": (nn.functional.cross_entropy, None),
    "per sample": (per_sample, None),
    "sum, said": (lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum"), "sum"),
    "mean, said": (nn.CrossEntropyLoss(), "mean"),
    "partial": (functools.partial(nn.functional.cross_entropy, reduction="sum"), None),
    "a Python float": (lambda o, y: nn.functional.cross_entropy(o, y).item(), None),
    "a number of NumPy": (lambda o, y: np.float64(nn.functional.cross_entropy(o, y).item()), None),
    "a Decimal": (lambda o, y: Decimal(nn.functional.cross_entropy(o, y).item()), None),
    "an array": (lambda o, y: per_sample(o, y).numpy(), None),
    "sum method": (nn.CrossEntropyLoss(reduction="sum").forward, None),
    "partial of a module": (functools.partial(nn.CrossEntropyLoss(reduction="sum")), None),
    "none, said": (per_sample, "none"),
    "one of one axis": (lambda o, y: nn.functional.cross_entropy(o, y).reshape(1), None),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_mean_loss_of_a_split_whatever_the_reduction(kind):
    """Batches of unequal size count by their samples."""
    loss, reduction = LOSSES[kind]
    x, y = classes(dtype=torch.float32)
    model, records = nn.Sequential(nn.Linear(12, 5)), []
    with Tracker(model, num_classes=5, sinks=[records.append]) as tracker:
        tracker.snapshot(
            [(x[:150], y[:150]), (x[150:], y[150:]), (x[:1], y[:1])],
            loss=loss,
            loss_reduction=reduction,
        )
    rows = torch.cat([torch.arange(200), torch.tensor([0])])
    expected = nn.functional.cross_entropy(model(x[rows]), y[rows]).item()
    assert records[0]["test/loss"] == pytest.approx(expected, rel=1e-5)
    assert records[0]["test/rnc1.max"] > 0


@pytest.mark.parametrize(
    ("loss", "reduction", "error", "message"),
    [
        (lambda o, y: torch.ones(7), None, ValueError, r"200 samples, but got shape \(7,\)"),
        (lambda o, y: None, None, TypeError, "`loss` to return a real number but got NoneType"),
        (lambda o, y: torch.tensor(1j), None, TypeError, "real number but got torch.complex64"),
        (nn.CrossEntropyLoss(), "none", ValueError, r"200 samples, but got shape \(\)"),
        (lambda o, y: np.array("a"), None, TypeError, "real number but got ndarray"),
        (nn.CrossEntropyLoss(), "average", ValueError, "`loss_reduction`.*'average'"),
    ],
)
def test_a_loss_that_is_none_is_named(loss, reduction, error, message):
    x, y = classes(dtype=torch.float32)
    tracker = Tracker(nn.Sequential(nn.Linear(12, 5)), num_classes=5)
    with pytest.raises(error, match=message):
        tracker.snapshot([(x, y)], loss=loss, loss_reduction=reduction)
    tracker.close()


def test_a_bool_is_a_number_in_json(tmp_path):
    with Tracker(num_classes=2, sinks=[tmp_path / "a.jsonl"], log_cost=False) as tracker:
        tracker.log({"done": True})
    record = json.loads((tmp_path / "a.jsonl").read_text())
    assert record == {"step": 0, "done": 1, "tracker/run": 1}
    assert "true" not in (tmp_path / "a.jsonl").read_text()


@pytest.mark.parametrize("values", [None, 3, "ab", [("a", 1.0)]])
def test_what_is_no_dict_is_named(values):
    """The message says what was expected, as for any other argument."""
    tracker = Tracker(num_classes=2)
    with pytest.raises(TypeError, match="`values` to be a dict of numbers but got"):
        tracker.log(values)
    tracker.close()
