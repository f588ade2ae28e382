"""Every public function takes every kind of argument, or names the argument that it refuses."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch

import ncfast
from ncfast.integrations.torchmetrics import CollapseMetric

pytestmark = pytest.mark.filterwarnings("ignore::ncfast.EstimateWarning")

N, D, K = 60, 4, 3
_draw = torch.Generator().manual_seed(0)
X, OOD = torch.randn(N, D, generator=_draw), torch.randn(9, D, generator=_draw)
Y = torch.arange(N) % K
W, B = torch.randn(K, D, generator=_draw), torch.randn(K, generator=_draw)
MOMENTS = ncfast.class_moments(X, Y, num_classes=K)
PAIRS = [(0, 1), (1, 2)]
X_Y = {"feats": X, "labels": Y}
FAMILY = X_Y | {"num_classes": K}
CLASSIFIER = FAMILY | {"weight": W, "bias": B}
PLAIN = {"stderr": False}


def _updated(**arguments):
    return ncfast.ClassMoments.empty(K, D).update_(**arguments)


def _stepped(**arguments):
    """Three steps: the first is a full one, the others may be fast."""
    records = []
    with ncfast.Tracker(num_classes=K, metrics=["rnc1.max"], sinks=[records.append]) as tracker:
        for _ in range(3):
            tracker.step(**arguments)
    return [record["train/rnc1.max"] for record in records]


def _stepped_with_classifier(num_classes, **arguments):
    """Two steps, which are full ones."""
    records, ids = [], ["rnc1.max", "nc1.pinv", "nc3.bias_collapse", "nc4.agreement"]
    options = {"num_classes": num_classes, "sinks": [records.append]}
    with ncfast.Tracker(metrics=ids, **options) as tracker:
        for _ in range(2):
            tracker.step(**arguments)
    return [record[f"train/{id_}"] for record in records for id_ in ids]


def _metric(**arguments):
    metric = CollapseMetric(num_classes=K, dim=D)
    metric.update(**arguments)
    return metric.compute()


def _accumulated(num_classes, weight, bias, **batch):
    acc = ncfast.Accumulator(num_classes, metrics="all", weight=weight, bias=bias)
    return acc.update(**batch).revisit(**batch).compute()


def _norm(weight, bias):
    return ncfast.weight_norm([weight, bias])


def _spectral(weight):
    return ncfast.spectral_norm_product([weight])


def _plane(**arguments):
    return ncfast.InformationPlane(arguments["inputs"], arguments["labels"], **PLAIN)(
        arguments["feats"]
    )


# name: the function, and arguments of which each is varied in turn
CALLS = {
    "class_moments": (ncfast.class_moments, FAMILY),
    "plan": (ncfast.plan, {"labels": Y, "num_classes": K}),
    "rnc1": (ncfast.rnc1, FAMILY),
    "cdnv": (ncfast.cdnv, FAMILY),
    "nc1": (ncfast.nc1, FAMILY),
    "nc1 of features": (ncfast.nc1, FAMILY | {"variant": "pinv"}),
    "nc1 by class": (ncfast.nc1, FAMILY | {"variant": "per_class"}),
    "nc2": (ncfast.nc2, FAMILY),
    "nc2 of weights": (ncfast.nc2, FAMILY | {"weight": W, "variant": "equinorm_weight"}),
    "nc3": (ncfast.nc3, CLASSIFIER | {"variant": "bias_collapse"}),
    "nc4": (ncfast.nc4, CLASSIFIER),
    "nc4 by class": (ncfast.nc4, CLASSIFIER | {"variant": "per_class"}),
    "nc5": (ncfast.nc5, FAMILY | {"ood_feats": OOD}),
    "nc5 of features": (ncfast.nc5, FAMILY | {"ood_feats": OOD, "variant": "neco_auroc"}),
    "collapse_metrics": (
        lambda feats, **rest: ncfast.collapse_metrics(feats, **rest),
        CLASSIFIER | {"ood_feats": OOD},
    ),
    "spectra": (ncfast.spectra, FAMILY),
    "alignment": (ncfast.alignment, {"x": X, "y": X.flip(0)}),
    "uniformity": (ncfast.uniformity, {"x": X}),
    "regression_moments": (ncfast.regression_moments, {"feats": X, "targets": X, "mask": Y > 0}),
    "regression_metrics": (
        ncfast.regression_metrics,
        {"feats": X, "targets": X[:, :K].clone(), "weight": W},
    ),
    "RegressionMoments.update_": (
        lambda **arguments: ncfast.RegressionMoments.empty(D, D).update_(**arguments),
        {"feats": X, "targets": X, "mask": Y > 0},
    ),
    "generalization_bound": (ncfast.generalization_bound, X_Y | {"weight": W, "bias": B}),
    "generalization_bound of moments": (
        ncfast.generalization_bound,
        X_Y | {"weight": W, "bias": B, "projected": False},
    ),
    "superfluous_information_bound": (
        ncfast.superfluous_information_bound,
        FAMILY | {"sigma": 0.1},
    ),
    "superfluous_information_bound of moments": (
        ncfast.superfluous_information_bound,
        FAMILY | {"sigma": 0.1, "form": "trace"},
    ),
    "realised_gap": (ncfast.realised_gap, {"train": MOMENTS, "test": MOMENTS}),
    "class_margins": (ncfast.class_margins, {"feats": X, "weight": W, "bias": B, "pairs": PAIRS}),
    "margin_histograms": (
        ncfast.margin_histograms,
        {"margins": X[:, :2], "labels": Y, "pairs": PAIRS, "bins": 4},
    ),
    "weight_norm": (_norm, {"weight": W, "bias": B}),
    "spectral_norm_product": (_spectral, {"weight": W}),
    "balancedness": (ncfast.balancedness, {"last": W.T.contiguous(), "previous": W}),
    "entropy": (ncfast.entropy, {"x": X, "k": 5} | PLAIN),
    "mutual_information": (ncfast.mutual_information, {"x": X, "y": OOD[Y], "k": 5} | PLAIN),
    "conditional_mutual_information": (
        ncfast.conditional_mutual_information,
        {"x": X[:, :1], "y": X[:, 1:2], "z": X[:, 2:3], "k": 5} | PLAIN,
    ),
    "label_information": (ncfast.label_information, {"z": X, "labels": Y, "k": 5} | PLAIN),
    "discrete_mutual_information": (ncfast.discrete_mutual_information, {"x": Y, "y": Y}),
    "superfluous_information": (
        ncfast.superfluous_information,
        X_Y | {"inputs": X, "sigma": 0.1, "k": 5} | PLAIN,
    ),
    "noise_sensitivity": (
        ncfast.noise_sensitivity,
        X_Y | {"inputs": X, "sigmas": [0.1, 0.2]} | PLAIN,
    ),
    "information_plane": (ncfast.information_plane, X_Y | {"inputs": X, "dim": 2} | PLAIN),
    "permutation_test": (ncfast.permutation_test, {"x": X, "y": Y, "permutations": 9}),
    "cka": (ncfast.cka, {"x": X, "y": Y}),
    "nhsic": (ncfast.nhsic, {"x": X, "y": Y}),
    "Tracker.step": (_stepped, X_Y),
    "Tracker.step(mask)": (_stepped_with_classifier, CLASSIFIER | {"mask": Y > 0}),
    "Accumulator": (_accumulated, CLASSIFIER | {"mask": Y > 0}),
    "ClassMoments.update_": (_updated, X_Y | {"mask": Y > 0}),
    "CollapseMetric.update": (_metric, X_Y),
    "InformationPlane(...)": (_plane, X_Y | {"inputs": X}),
}
# what `ncfast` exports beside functions of numbers
OTHERS = {
    *("ClassMoments", "Estimate", "EstimateWarning", "LabelPlan", "PermutationTest", "PlanePoint"),
    *(
        "InformationPlane",
        "RegressionMoments",
        "Tracker",
        "backends",
        "describe",
        "information_correlation",
    ),
    *("Evaluation", "evaluate"),
}


def _read_only(tensor):
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


def _strided(tensor):
    return np.repeat(tensor.numpy(), 2, axis=0)[::2]


def _swapped(array):
    return array.astype(array.dtype.newbyteorder(">"))


def _mapped(tensor, folder):
    path = folder / f"{tensor.data_ptr()}.npy"
    np.save(path, tensor.numpy())
    return np.load(path, mmap_mode="r")


KINDS = {
    "array": lambda tensor, folder: tensor.numpy(),
    "read-only": lambda tensor, folder: _read_only(tensor),
    "strided": lambda tensor, folder: _strided(tensor),
    "reversed": lambda tensor, folder: tensor.numpy()[::-1].copy()[::-1],
    "big-endian": lambda tensor, folder: _swapped(tensor.numpy()),
    "mapped": _mapped,
}


def numbers(found):
    """Every number of a result, in order."""
    if isinstance(found, torch.Tensor):
        return found.flatten().tolist()
    if isinstance(found, (bool, int, float)):
        return [found]
    if isinstance(found, ncfast.LabelPlan):
        return found.permutation.tolist() + found.counts.tolist()
    if dataclasses.is_dataclass(found):
        fields = dataclasses.fields(found)
        return numbers([getattr(found, field.name) for field in fields])
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        return [number for each in found for number in numbers(each)]
    return []  # text


def equal(one, other):
    first, second = numbers(one), numbers(other)
    assert len(first) == len(second) > 0
    return all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(first, second, strict=True)
    )


def _of(kind):
    """Pairs of a call and the name of an argument of that kind."""
    return [
        (call, name)
        for call, (_, arguments) in CALLS.items()
        for name, value in arguments.items()
        if isinstance(value, kind) and not isinstance(value, bool)
    ]


def _named(call, argument):
    """How errors name the argument: `weight_norm` has one argument for all tensors."""
    return {"weight_norm": "model_or_parameters", "spectral_norm_product": "model_or_weights"}.get(
        call, argument
    )


def run(call, **changed):
    function, arguments = CALLS[call]
    return function(**(arguments | changed))


def test_every_public_function_is_called_here():
    modules = {name for name in ncfast.__all__ if inspect.ismodule(getattr(ncfast, name))}
    public = set(ncfast.__all__) - modules
    assert public - OTHERS == public & set(CALLS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_arrays_give_the_same_bits_as_tensors(call, kind, tmp_path):
    _, arguments = CALLS[call]
    changed = {
        name: KINDS[kind](value, tmp_path)
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor)
    }
    assert equal(run(call, **changed), run(call))


@pytest.mark.parametrize(("call", "argument"), _of(torch.Tensor))
def test_lists_are_taken_for_what_numpy_makes_of_them(call, argument):
    value = CALLS[call][1][argument]
    as_list = run(call, **{argument: value.tolist()})
    assert equal(as_list, run(call, **{argument: np.asarray(value.tolist())}))


@pytest.mark.parametrize(("call", "argument"), _of(torch.Tensor))
def test_a_plan_gives_the_value_of_its_labels_or_an_error_with_the_name(call, argument):
    plan = ncfast.plan(Y, K)
    if CALLS[call][1][argument] is Y or call in ("cka", "nhsic"):  # of features or labels
        assert equal(run(call, **{argument: plan}), run(call, **{argument: Y}))
        return
    with pytest.raises((TypeError, ValueError), match=f"`{_named(call, argument)}`"):
        run(call, **{argument: plan})


OF_MOMENTS = {
    *("rnc1", "cdnv", "nc1", "nc1 by class", "nc2", "nc2 of weights", "nc3", "nc5"),
    *("generalization_bound of moments", "superfluous_information_bound of moments"),
}


@pytest.mark.parametrize(("call", "argument"), _of(torch.Tensor))
def test_moments_give_the_same_value_or_an_error_with_the_name(call, argument):
    if argument == "feats" and call in OF_MOMENTS:
        assert equal(run(call, feats=MOMENTS, labels=None), run(call))
        return
    if argument == "feats" and call == "collapse_metrics":
        found, whole = run(call, feats=MOMENTS, labels=None), run(call)
        assert found
        assert equal(found, {id_: whole[id_] for id_ in found})
        return
    changed = {argument: MOMENTS}
    if argument == "feats" and call in ("nc4", "nc1 of features", "nc5 of features", "spectra"):
        changed["labels"] = None
    with pytest.raises((TypeError, ValueError), match=f"`{_named(call, argument)}`"):
        run(call, **changed)


@pytest.mark.parametrize("wrong", [None, object(), "text", 3.5, {"a": 1}], ids=str)
@pytest.mark.parametrize(("call", "argument"), _of((torch.Tensor, ncfast.ClassMoments)))
def test_nonsense_is_an_error_with_the_name(call, argument, wrong):
    if wrong is None and call.startswith("Tracker.step"):
        pytest.skip("means that the model's features are to be taken")
    if wrong is None and argument in ("bias", "mask", "ood_feats", "weight", "labels"):
        pytest.skip("means that there is none")
    if wrong == 3.5 and call == "weight_norm":
        pytest.skip("a number is a parameter without axes")
    with pytest.raises((TypeError, ValueError), match=f"`{_named(call, argument)}`"):
        run(call, **{argument: wrong})


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
@pytest.mark.parametrize(("call", "argument"), _of(int))
def test_numpy_integers_are_integers(call, argument, kind):
    assert equal(run(call, **{argument: kind(CALLS[call][1][argument])}), run(call))


@pytest.mark.parametrize("wrong", [True, np.True_, 3.0, "3"])
@pytest.mark.parametrize(("call", "argument"), _of(int))
def test_other_numbers_are_no_integers(call, argument, wrong):
    with pytest.raises(TypeError, match=f"`{argument}`"):
        run(call, **{argument: wrong})


def test_moments_are_told_apart_from_features_before_labels_are_missed():
    for function in (ncfast.nc4, ncfast.spectra):
        assert inspect.signature(function).parameters["labels"].default is None
        with pytest.raises(ValueError, match="moments are not enough"):
            function(MOMENTS)


def test_a_number_of_classes_that_is_not_that_of_the_moments():
    with pytest.raises(
        ValueError, match="`num_classes` to be 3, as in the ClassMoments, but got 4"
    ):
        ncfast.rnc1(MOMENTS, num_classes=4)


def test_an_array_is_read_where_it_lies():
    from ncfast._arrays import as_tensor

    for array in (X.numpy(), _read_only(X), X.numpy().T, _strided(X)):
        assert as_tensor("x", array).data_ptr() == array.__array_interface__["data"][0]


def test_a_tensor_outlives_the_read_only_array_that_it_shares():
    from ncfast._arrays import as_tensor

    array = np.random.default_rng(0).random((300, 300))
    array.flags.writeable = False
    expected, tensor = array.sum(), as_tensor("x", array)
    del array
    scratch = [np.full((300, 300), np.nan) for _ in range(4)]
    assert tensor.sum().item() == pytest.approx(expected)
    del scratch
