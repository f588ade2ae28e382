"""`Accumulator`: streams in any batches equal one call on the whole; what may go wrong is said."""

import copy
import math
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import classes, collapsed, companions
from torch._subclasses import FakeTensorMode

import ncfast
from ncfast.metrics.catalogue import CATALOGUE, METRICS


class Case:
    """Features, labels, a classifier and features from outside, and the metrics of the whole."""

    def __init__(self, count=200, dim=12, num_classes=5, seed=0, dtype=torch.float64):
        self.feats, self.labels = classes(count, dim, num_classes, seed=seed, dtype=dtype)
        self.weight, self.bias, ood = companions(num_classes, dim)
        self.ood, self.num_classes = ood.to(dtype), num_classes

    def whole(self, **options):
        return ncfast.collapse_metrics(
            self.feats,
            self.labels,
            weight=self.weight,
            bias=self.bias,
            ood_feats=self.ood,
            num_classes=self.num_classes,
            **options,
        )

    def accumulator(self, metrics="all", **options):
        return ncfast.Accumulator(
            self.num_classes, metrics=metrics, weight=self.weight, bias=self.bias, **options
        )

    def batches(self, sizes):
        sizes = [*sizes, len(self.feats) - sum(sizes)]
        return list(zip(self.feats.split(sizes), self.labels.split(sizes), strict=True))


def two_looks(acc, first, second=None, ood=()):
    """Both passes over batches of features, labels and perhaps a mask."""
    for feats, labels, *mask in first:
        acc.update(feats, labels, mask=mask[0] if mask else None)
    for part in ood:
        acc.update_ood(part)
    for feats, labels, *mask in first if second is None else second:
        acc.revisit(feats, labels, mask=mask[0] if mask else None)
    for part in ood:
        acc.revisit_ood(part)
    return acc


def assert_equal(found, expected, rel=1e-6):
    assert set(found) == set(expected)
    for name, value in expected.items():
        close = pytest.approx(float(value), rel=rel, abs=1e-13, nan_ok=True)
        assert float(found[name]) == close, name
        assert found[name].shape == ()
        assert found[name].dtype == torch.float64


UNEVEN = [37, 1, 50, 0, 40]


@pytest.mark.parametrize(
    ("count", "dim", "num_classes"),
    [(200, 12, 5), (200, 4, 30), (150, 50, 7), (300, 1, 3)],
    ids=["plain", "K>D", "wide", "one-column"],
)
def test_every_id_of_uneven_batches_in_any_order_equals_the_whole(count, dim, num_classes):
    case = Case(count, dim, num_classes)
    first, second = case.batches(UNEVEN), case.batches([3, 90])
    acc = two_looks(case.accumulator(), first[::-1], second, case.ood.split(17))
    assert acc.missing == {}
    assert set(acc.compute()) == set(CATALOGUE)
    assert_equal(acc.compute(), case.whole(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision(dtype):
    case = Case(300, dtype=dtype)
    acc = two_looks(case.accumulator(), case.batches(UNEVEN), ood=case.ood.split(17))
    assert_equal(acc.compute(), case.whole(backend="reference"))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 10**6))
def test_any_split(sizes, seed):
    case = Case(220, 6, 4, seed=seed)
    acc = two_looks(case.accumulator(), case.batches(sizes), ood=[case.ood])
    assert_equal(acc.compute(), case.whole())


def test_a_thousand_small_batches_equal_the_whole():
    feats, labels = collapsed(1e-3, count=3000, dim=24, num_classes=7)
    acc = ncfast.Accumulator(7, metrics="all", weight=companions(7, 24)[0])
    batches = list(zip(feats.split(3), labels.split(3), strict=True))
    found = two_looks(acc, batches).compute()
    given = {"weight": companions(7, 24)[0], "num_classes": 7, "backend": "reference"}
    assert_equal(found, ncfast.collapse_metrics(feats, labels, **given))


def test_identical_rows_are_exactly_zero():
    feats = torch.randn(3, 7)[torch.arange(90) % 3] + 100
    labels = torch.arange(90) % 3
    acc = ncfast.Accumulator(3, metrics=["nc1", "rnc1"])
    for x, y in zip(feats.split(40), labels.split(40), strict=True):
        acc.update(x, y)
    found = acc.compute()
    zero = ("rnc1.max", "nc1.quotient", "nc1.cdnv", "nc1.pinv", "nc1.svd")
    assert {name: float(found[name]) for name in zero} == dict.fromkeys(zero, 0.0)
    assert acc.moments.within_ss.eq(0).all()


@pytest.mark.parametrize("how", ["mask", "attention", "ignore_index", "numpy", "plan"])
def test_rows_left_out_do_not_count_whatever_they_hold(how):
    case = Case()
    whole = case.whole()
    keep = torch.rand(len(case.feats) + 60, generator=torch.Generator().manual_seed(1)).argsort()
    feats = torch.cat([case.feats, torch.full((60, 12), torch.nan, dtype=torch.float64)])[keep]
    labels = torch.cat([case.labels, torch.full((60,), 3)])[keep]
    mask = (keep < len(case.feats)).clone()
    if how == "ignore_index":
        batches = [(feats, labels.masked_fill(~mask, -100))]
    elif how == "plan":
        batches = [(feats, ncfast.plan(labels, 5), mask)]
    elif how == "numpy":
        batches = [(feats.numpy(), labels.numpy().astype(np.int16), mask.numpy())]
    else:
        mask = mask.long() if how == "attention" else mask
        batches = list(zip(feats.split(70), labels.split(70), mask.split(70), strict=True))
    acc = two_looks(case.accumulator(), batches, ood=[case.ood])
    assert_equal(acc.compute(), whole, rel=1e-9)
    assert acc.ignored == 60
    assert acc.ignored.dtype == torch.int64


def test_a_row_that_is_nan_makes_of_every_metric_what_it_makes_of_the_whole():
    case = Case()
    case.feats[7, 3] = torch.nan
    acc = two_looks(case.accumulator(), case.batches([50]), ood=[case.ood])
    assert_equal(acc.compute(), case.whole(), rel=1e-9)


def test_tokens_are_flattened():
    case = Case(240)
    feats, labels = case.feats.view(4, 60, 12), case.labels.view(4, 60)
    acc = two_looks(case.accumulator(), [(feats, labels)], ood=[case.ood.view(2, 20, 12)])
    assert_equal(acc.compute(), case.whole(), rel=1e-9)


def test_batches_with_nothing_left_change_nothing():
    case = Case()
    acc = ncfast.Accumulator(5)
    assert acc.update(torch.zeros(0, 12), torch.zeros(0, dtype=torch.long)) is acc
    acc.update(case.feats, case.labels)
    before = acc.state_dict()
    acc.update(torch.zeros(0, 12), torch.zeros(0, dtype=torch.long))
    acc.update(case.feats, case.labels, mask=torch.zeros(200, dtype=torch.bool))
    acc.update(case.feats[:3], torch.full((3,), -100))
    after = acc.state_dict()
    assert after.pop("ignored") == before.pop("ignored") + 203
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_many_classes_of_which_few_are_present():
    case = Case(num_classes=5)
    there = torch.tensor([7, 300, 1000, 4000, 4999])
    small = ncfast.Accumulator(5, metrics="full", weight=case.weight)
    large = ncfast.Accumulator(5000, 12, metrics="full", weight=torch.zeros(5000, 12).double())
    weight = torch.zeros(5000, 12, dtype=torch.float64)
    weight[there] = case.weight
    large.set_classifier(weight)
    two_looks(small, case.batches(UNEVEN))
    two_looks(large, [(x, there[y]) for x, y in case.batches(UNEVEN)])
    expected, found = small.compute(), large.compute()
    # a classifier may choose a class that has no sample
    seen = [name for name in expected if not name.startswith(("bound", "nc4.agreement"))]
    assert_equal({n: found[n] for n in seen}, {n: expected[n] for n in seen})


def test_metrics_by_name_tier_and_default():
    assert ncfast.Accumulator(3).ids == tuple(METRICS)
    assert ncfast.Accumulator(3, metrics=["nc1.pinv", "default"]).ids[1:] == tuple(METRICS)
    assert not ncfast.Accumulator(3, metrics="standard").needs_revisit
    assert ncfast.Accumulator(3, metrics="all").needs_revisit
    with pytest.raises(ValueError, match="nc9"):
        ncfast.Accumulator(3, metrics="nc9")


def test_what_is_missing_is_named_with_its_reason():
    case = Case()
    acc = ncfast.Accumulator(5, metrics="all").update(case.feats, case.labels)
    missing = acc.missing
    assert "set_classifier" in missing["nc3.self_duality"]
    assert "update_ood" in missing["nc5.neco_auroc"]
    assert "revisit" in missing["nc4.ncc_accuracy"]
    assert "nc1.pinv" not in missing
    assert set(acc.compute()) == set(CATALOGUE) - set(missing)
    acc.set_classifier(case.weight).update_ood(case.ood).revisit(case.feats, case.labels)
    assert set(acc.missing) == {"nc3.bias_collapse", "nc5.neco_auroc", "nc5.neco_fpr95"}
    assert "revisit_ood" in acc.missing["nc5.neco_auroc"]


@pytest.mark.parametrize("name", ["nc3.cosine", "nc4.ncc_accuracy", "nc5.ood_cosine"])
def test_a_missing_input_of_an_id_by_name_is_an_error(name):
    case = Case()
    acc = ncfast.Accumulator(5, metrics=["default", name]).update(case.feats, case.labels)
    with pytest.raises(ValueError, match=f"{name}.*(set_classifier|revisit|update_ood)"):
        acc.compute()


def test_the_memory_limit_leaves_out_large_matrices_with_one_warning():
    case = Case()
    acc = ncfast.Accumulator(5, metrics=["all", "nc1.pinv"], memory_limit="1 kB")
    with pytest.warns(UserWarning, match="nc1.pinv.*1,152 bytes.*1,000") as caught:
        acc.update(case.feats, case.labels)
    assert len(caught) == 1
    acc.reset().update(case.feats, case.labels)
    found = acc.compute()
    assert "nc1.pinv" not in found
    assert "memory_limit" in acc.missing["nc1.pinv"]
    assert "nc1.quotient" in found
    assert "scatter" not in acc.state_dict()


def test_the_classifier_is_that_of_the_first_revisit():
    case = Case()
    weight = case.weight.clone()
    acc = ncfast.Accumulator(5, metrics=["nc3", "nc4", "bound"], weight=weight)
    acc.update(case.feats, case.labels).revisit(case.feats, case.labels)
    expected = acc.compute()
    weight.mul_(-3)
    assert_equal(acc.compute(), expected, rel=0)
    acc.set_classifier(weight)
    assert "nc4.agreement" in acc.missing
    changed = acc.revisit(case.feats, case.labels).compute()
    assert changed["nc3.cosine"] == pytest.approx(-float(expected["nc3.cosine"]))


def test_merge_equals_one_stream():
    case = Case(300)
    one, two, three = (case.accumulator() for _ in range(3))
    (first, *rest) = case.batches([100, 120])
    one.update(*first).update_ood(case.ood[:10])
    for batch in rest:
        two.update(*batch)
    two.update_ood(case.ood[10:])
    assert one.merge(two).merge(three) is one
    three.merge(one)
    for acc in (one, three):
        acc.revisit(case.feats, case.labels).revisit_ood(case.ood)
        assert_equal(acc.compute(), case.whole(), rel=1e-9)


def test_an_update_after_the_second_look_makes_it_invalid():
    case = Case()
    acc = two_looks(ncfast.Accumulator(5, metrics="nc4"), case.batches([100]))
    assert "nc4.ncc_accuracy" in acc.compute()
    acc.update(case.feats[:5], case.labels[:5])
    assert "nc4.ncc_accuracy" in acc.missing


@pytest.mark.parametrize("change", ["missing", "extra", "other labels", "augmented", "ood"])
def test_a_second_look_at_other_rows_is_an_error_that_says_how_far_off(change):
    case = Case()
    acc = case.accumulator()
    acc.update(case.feats, case.labels).update_ood(case.ood)
    feats, labels, ood = case.feats.clone(), case.labels.clone(), case.ood
    if change == "missing":
        feats, labels, message = feats[:190], labels[:190], "190 rows instead of 200.*drop_last"
    elif change == "extra":
        acc.revisit(feats[:1], labels[:1])
        message = "201 rows instead of 200; the counts of 1 class"
    elif change == "other labels":
        labels[0] = (labels[0] + 1) % 5
        message = "counts of 2 classes"
    elif change == "augmented":
        feats *= 1.001
        message = "0.001 away.*augmentation"
    else:
        ood, message = ood[1:], "39 rows instead of 40"
    acc.revisit(feats, labels).revisit_ood(ood)
    with pytest.raises(ValueError, match=message):
        acc.compute()


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_labels_in_another_order_are_found_by_the_second_look(offset):
    """The counts and the norms are the same; NC4 would be that of random labels."""
    case = Case()
    feats = torch.nn.functional.layer_norm(case.feats, (12,)) + offset  # rows sum to one number
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    acc = ncfast.Accumulator(5, metrics="nc4").update(feats, case.labels)
    acc.revisit(feats, case.labels[order])
    with pytest.raises(ValueError, match="other features for the same labels.*from one loader"):
        acc.compute()


def test_bad_input():
    case = Case()
    feats, labels = case.feats, case.labels
    acc = ncfast.Accumulator(5, metrics="all")
    for call in (acc.compute, lambda: acc.moments, lambda: acc.revisit(feats, labels)):
        with pytest.raises(ValueError, match="update"):
            call()
    acc.update(feats, labels)
    before = acc.state_dict()
    wrong = {
        "D = 12": lambda: acc.update(feats[:, :7], labels),
        "same length": lambda: acc.update(feats, labels[:9]),
        r"`labels` of shape \(4, 50\)": lambda: acc.update(feats.view(4, 50, 12), labels),
        "integer dtype": lambda: acc.update(feats, labels.float()),
        "row 1 holds 7": lambda: acc.update(feats[:2], torch.tensor([0, 7])),
        "row 2 holds -1": lambda: acc.revisit(feats[:3], torch.tensor([0, -100, -1])),
        "`mask` to have the shape of `labels`": lambda: acc.update(feats, labels, mask=labels[:9]),
        "`mask` to be bool": lambda: acc.update(feats, labels, mask=labels.float()),
        r"`weight` of shape \(K, D\) = \(5, 12\)": lambda: acc.set_classifier(feats),
        r"`bias` of shape \(K,\)": lambda: acc.set_classifier(case.weight, feats[0]),
        "`weight` beside `bias`": lambda: acc.set_classifier(None, feats[0]),
        r"\(K, D\) = \(5, 12\)": lambda: acc.merge(ncfast.Accumulator(4).update(feats, labels % 4)),
        "scatter": lambda: acc.merge(ncfast.Accumulator(5).update(feats, labels)),
        "backend": lambda: ncfast.Accumulator(5, backend="fast"),
        "num_classes": lambda: ncfast.Accumulator(0),
        "`dim` to be at least 1": lambda: ncfast.Accumulator(5, 0),
        "`dim` to be an int but got float": lambda: ncfast.Accumulator(5, 2.5),
        "`ignore_index` to be an int": lambda: ncfast.Accumulator(5, ignore_index="pad"),
        "`ignore_index` to fit into int64": lambda: ncfast.Accumulator(5, ignore_index=1 << 70),
        "to be an Accumulator but got ClassMoments": lambda: acc.merge(acc.moments),
        "memory_limit": lambda: ncfast.Accumulator(5, memory_limit="much"),
    }
    for message, call in wrong.items():
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    after = acc.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "to"])
def test_travels_between_and_after_the_looks(how):
    def travel(acc):
        if how == "state_dict":
            return case.accumulator().load_state_dict(acc.state_dict())
        if how == "pickle":
            return pickle.loads(pickle.dumps(acc))
        return copy.deepcopy(acc) if how == "deepcopy" else acc.to("cpu")

    case = Case()
    (one, two) = case.batches([80])
    acc = travel(case.accumulator())
    acc = travel(acc.update(*one))
    acc = travel(acc.update(*two).update_ood(case.ood))
    acc = travel(acc.revisit(*two))
    acc = travel(acc.revisit(*one).revisit_ood(case.ood))
    assert_equal(acc.compute(), case.whole(), rel=1e-9)


@pytest.mark.parametrize("other", [(6, 12, "all"), (5, 11, "all"), (5, 12, "default")])
def test_a_state_of_another_kind_is_refused(other):
    case = Case()
    state = case.accumulator().update(case.feats, case.labels).state_dict()
    number, dim, metrics = other
    acc = ncfast.Accumulator(number, dim, metrics=metrics)
    with pytest.raises(ValueError, match="state"):
        acc.load_state_dict(state)
    with pytest.raises(ValueError, match="`update` before"):
        acc.compute()


DAMAGED = {
    "'moments.counts' of `state` to be at least 0 but got -5": ("moments.counts", -5),
    "'moments.means' .* finite but got nan": ("moments.means", torch.nan),
    "'moments.within_ss' .* at least 0": ("moments.within_ss", -1.0),
    "'moments.norm_sum' .* at least 0": ("moments.norm_sum", -1.0),
    "'outside.counts' .* at least 0": ("outside.counts", -1),
    "'ignored' .* at least 0": ("ignored", -1),
    "'scatter' .* at least 0": ("scatter", -1.0),
    "'scatter' .* finite": ("scatter", torch.nan),
    r"'look.packed \(counts\)' .* at least 0": ("look.packed", -1.0),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_values_that_no_rows_give_are_refused_and_nothing_is_loaded(message):
    case = Case()
    acc = case.accumulator().update(case.feats, case.labels).revisit(case.feats, case.labels)
    before = acc.state_dict()
    name, value = DAMAGED[message]
    damaged = before[name].clone()
    damaged.view(-1)[0] = value
    with pytest.raises(ValueError, match=message):
        acc.load_state_dict(before | {name: damaged})
    assert all(torch.equal(found, before[key]) for key, found in acc.state_dict().items())


@pytest.mark.parametrize("name", ["moments.means", "flags", "look.wanted"])
@pytest.mark.parametrize("value", [None, 3, [1.0], torch.zeros(())])
def test_an_entry_that_is_no_tensor_or_of_another_kind_is_refused(name, value):
    case = Case()
    acc = case.accumulator().update(case.feats, case.labels).revisit(case.feats, case.labels)
    with pytest.raises(ValueError, match="`state`"):
        ncfast.Accumulator(5, metrics="all").load_state_dict(acc.state_dict() | {name: value})


def test_a_state_with_features_that_are_not_finite_is_saved_and_loaded():
    case = Case()
    case.feats[3, 2] = torch.nan
    state = case.accumulator().update(case.feats, case.labels).state_dict()
    loaded = case.accumulator().load_state_dict(state)
    assert loaded.moments.norm_sum.isnan()
    assert loaded.moments.total == len(case.feats)


def test_a_second_look_without_what_the_metrics_need_is_left_out_on_loading():
    """A look without the classifier counts no agreements: they are not zero, they are missing."""
    case = Case()
    bare = ncfast.Accumulator(5, metrics="nc4").update(case.feats, case.labels)
    state = bare.revisit(case.feats, case.labels).state_dict()
    acc = case.accumulator("nc4").load_state_dict(state)
    assert "second look" in acc.missing["nc4.agreement"]
    acc.revisit(case.feats, case.labels)
    assert_equal(acc.compute(), case.whole(metrics="nc4"))
    acc = case.accumulator(["bound.generalization"]).load_state_dict(state)
    with pytest.raises(ValueError, match="needs a second look"):
        acc.compute()


def test_a_damaged_second_look_is_refused_and_nothing_is_loaded():
    case = Case()
    acc = case.accumulator().update(case.feats, case.labels).revisit(case.feats, case.labels)
    state, other = acc.state_dict(), case.accumulator()
    with pytest.raises(ValueError, match=r"second look .* to have \['packed'\]"):
        other.load_state_dict({k: v for k, v in state.items() if k != "look.packed"})
    with pytest.raises(ValueError, match="sums of the second look"):
        other.load_state_dict(state | {"look.packed": state["look.packed"][:-1]})
    assert other.state_dict() == {}


def test_reset_and_repr():
    case = Case()
    acc = ncfast.Accumulator(5, metrics="nc1").update(case.feats, case.labels)
    assert repr(acc) == "Accumulator(N=200, K=5, D=12, metrics='nc1', backend='auto')"
    first, moments = acc.compute(), acc.moments
    assert acc.update(case.feats, case.labels).moments is moments, "it is updated in place"
    assert moments.total == 400
    assert math.isnan(acc.reset().compute()["nc1.pinv"])
    assert_equal(acc.update(case.feats, case.labels).compute(), first, rel=0)


def test_no_host_synchronisation():
    """Fake tensors raise on any read of a value."""
    with FakeTensorMode():
        feats, labels = torch.empty(500, 64), torch.empty(500, dtype=torch.int64)
        mask = torch.empty(500, dtype=torch.bool)
        acc = ncfast.Accumulator(10, metrics="all", weight=torch.empty(10, 64))
        acc.update(feats, labels, mask=mask).update_ood(feats)
        acc.revisit(feats, labels, mask=mask)
        with pytest.raises(Exception, match=r"_local_scalar_dense|item|data-dependent"):
            acc.compute()


def test_batches_are_moved_to_the_device_of_the_state():
    acc = ncfast.Accumulator(5, metrics="default", device="meta")
    acc.update(*classes())
    assert acc.moments.means.device.type == "meta"


def test_two_threads_lose_nothing():
    case = Case(400)
    acc = ncfast.Accumulator(5, 12, metrics="all")

    def work(batches):
        for batch in batches:
            acc.update(*batch)

    batches = case.batches([10] * 39)
    threads = [threading.Thread(target=work, args=(batches[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = ncfast.Accumulator(5, metrics="all").update(case.feats, case.labels)
    assert_equal(acc.compute(), expected.compute(), rel=1e-9)


def test_an_accumulator_begun_in_inference_mode_goes_on_outside():
    case = Case()
    acc = ncfast.Accumulator(5, metrics=["nc1", "nc4.ncc_accuracy"])
    with torch.inference_mode():
        acc.update(case.feats[:100], case.labels[:100])
    with torch.inference_mode():
        acc = ncfast.Accumulator(5, metrics=acc.ids).merge(acc).to("cpu")
        acc = ncfast.Accumulator(5, 12, metrics=acc.ids).load_state_dict(acc.state_dict())
    acc.update(case.feats[100:], case.labels[100:])
    with torch.inference_mode():
        acc.set_classifier(case.weight).revisit(case.feats[:100], case.labels[:100])
    acc.revisit(case.feats[100:], case.labels[100:])
    expected = ncfast.collapse_metrics(case.feats, case.labels, metrics=["nc1", "nc4.ncc_accuracy"])
    assert_equal(acc.compute(), expected, rel=1e-9)
