"""A device without float64 (Apple's MPS): each public call refuses it, or works on the CPU.

Wrong numbers in float32 would go unnoticed, and errors of torch name no remedy.
"""

import re
import warnings

import pytest
import torch
from apple import OnMps, on_mps
from samples import classes
from torch import nn

import ncfast

FEATS, LABELS = classes(60, 6, 4, dtype=torch.float32)
X, Y = OnMps(FEATS), OnMps(LABELS)
W, B = OnMps(torch.randn(4, 6)), OnMps(torch.randn(4))


def moments():
    return ncfast.class_moments(FEATS, LABELS)


# every public function that takes a tensor or a device
REFUSED = {
    "class_moments": lambda: ncfast.class_moments(X, Y),
    "ClassMoments.empty": lambda: ncfast.ClassMoments.empty(4, 6, device="mps"),
    "ClassMoments.to": lambda: moments().to("mps"),
    "ClassMoments.update_": lambda: moments().update_(X, Y),
    "plan": lambda: ncfast.plan(Y, 4),
    "rnc1": lambda: ncfast.rnc1(X, Y),
    "nc1": lambda: ncfast.nc1(X, Y),
    "nc2": lambda: ncfast.nc2(X, Y),
    "nc3": lambda: ncfast.nc3(X, Y, weight=W),
    "nc4": lambda: ncfast.nc4(X, Y, weight=W, bias=B),
    "losses.rnc1": lambda: ncfast.losses.rnc1(X, Y),
    "losses.cdnv": lambda: ncfast.losses.cdnv(X, Y),
    "losses.etf_error": lambda: ncfast.losses.etf_error(X, Y),
    "losses.within_class_variance": lambda: ncfast.losses.within_class_variance(X, Y),
    "alignment": lambda: ncfast.alignment(X, X),
    "uniformity": lambda: ncfast.uniformity(X),
    "regression_moments": lambda: ncfast.regression_moments(X, X),
    "regression_metrics": lambda: ncfast.regression_metrics(X, X),
    "RegressionMoments.empty": lambda: ncfast.RegressionMoments.empty(6, 2, device="mps"),
    "RegressionMoments.to": lambda: ncfast.RegressionMoments.empty(6, 2).to("mps"),
    "RegressionMoments.update_": lambda: ncfast.RegressionMoments.empty(6, 6).update_(X, X),
    "nc5": lambda: ncfast.nc5(X, Y, ood_feats=X),
    "cdnv": lambda: ncfast.cdnv(X, Y),
    "collapse_metrics": lambda: ncfast.collapse_metrics(X, Y, weight=W),
    "spectra": lambda: ncfast.spectra(X, Y),
    "class_margins": lambda: ncfast.class_margins(X, W, pairs=[(0, 1)]),
    "margin_histograms": lambda: ncfast.margin_histograms(X[:, :1], Y, pairs=[(0, 1)]),
    "generalization_bound": lambda: ncfast.generalization_bound(X, Y, W, B),
    "superfluous_information_bound": lambda: ncfast.superfluous_information_bound(X, Y, sigma=1.0),
    "weight_norm": lambda: ncfast.weight_norm([W, B]),
    "weight_norm of a module": lambda: ncfast.weight_norm(on_mps(nn.Linear(6, 4))),
    "balancedness": lambda: ncfast.balancedness(W, X[:6]),
    "spectral_norm_product": lambda: ncfast.spectral_norm_product([W]),
    "entropy": lambda: ncfast.entropy(X),
    "mutual_information": lambda: ncfast.mutual_information(X, X),
    "conditional_mutual_information": lambda: ncfast.conditional_mutual_information(X, X, X),
    "label_information": lambda: ncfast.label_information(X, Y),
    "discrete_mutual_information": lambda: ncfast.discrete_mutual_information(Y, Y),
    "permutation_test": lambda: ncfast.permutation_test(X, Y),
    "superfluous_information": lambda: ncfast.superfluous_information(X, Y, X, sigma=0.1),
    "noise_sensitivity": lambda: ncfast.noise_sensitivity(X, Y, X, sigmas=[0.1]),
    "InformationPlane": lambda: ncfast.InformationPlane(X, Y),
    "InformationPlane.__call__": lambda: ncfast.InformationPlane(FEATS, LABELS)(X),
    "information_plane": lambda: ncfast.information_plane(FEATS, X, LABELS),
    "cka": lambda: ncfast.cka(X, X),
    "nhsic": lambda: ncfast.nhsic(X, X),
    "Accumulator(device)": lambda: ncfast.Accumulator(4, device="mps"),
    "Accumulator.to": lambda: ncfast.Accumulator(4).to("mps"),
    "Tracker.step": lambda: ncfast.Tracker(num_classes=4).step(feats=X, labels=Y),
}
WORK = {"Accumulator", "Tracker", "evaluate"}  # where features are moved; tested below
NO_TENSOR = {"Estimate", "EstimateWarning", "Evaluation", "InformationPlane", "LabelPlan"} | {
    *(
        "PermutationTest",
        "PlanePoint",
        "backends",
        "describe",
        "information_correlation",
        "realised_gap",
    )
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_call_names_the_argument_and_the_remedy(name):
    with pytest.raises(ValueError, match=r"`\w+` on a device with float64 .*but got mps\. .*CPU"):
        REFUSED[name]()


def test_every_public_name_is_asked():
    asked = {re.match(r"\w+", name)[0] for name in REFUSED}
    assert asked | NO_TENSOR | WORK == {*ncfast.__all__, "losses"}


def test_a_classifier_elsewhere_is_named():
    with pytest.raises(ValueError, match="`weight` on cpu but got mps"):
        ncfast.nc3(FEATS, LABELS, weight=W)
    with pytest.raises(ValueError, match="`ood_feats` on cpu but got mps"):
        ncfast.nc5(FEATS, LABELS, ood_feats=X)


def test_an_accumulator_moves_batches_to_the_cpu():
    acc = ncfast.Accumulator(4, metrics="all", weight=W, bias=B)
    acc.update(X, Y).update_ood(X[:9]).revisit(X, Y).revisit_ood(X[:9])
    expected = ncfast.collapse_metrics(
        FEATS, LABELS, weight=W.here, bias=B.here, ood_feats=FEATS[:9]
    )
    found = acc.compute()
    assert found.keys() == expected.keys()
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-6, abs=1e-9
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def test_a_network_is_evaluated():
    expected = ncfast.evaluate(network(), [(FEATS, LABELS)])
    found = ncfast.evaluate(on_mps(network()), [(X, Y)])
    assert dict(found) == pytest.approx(dict(expected), rel=1e-5, abs=1e-9)


def test_a_snapshot_is_taken():
    def loss(outputs, labels):
        return (outputs - labels.unsqueeze(1)).square().mean()

    records = []
    for model, batch in ((network(), (FEATS, LABELS)), (on_mps(network()), (X, Y))):
        options = {"num_classes": 4, "metrics": ["rnc1", "nc1"], "sinks": [records.append]}
        with ncfast.Tracker(model, **options) as tracker:
            tracker.snapshot([batch], loss=loss)
    expected, found = ({k: r[k] for k in r if k.startswith("test/")} for r in records)
    assert "test/loss" in expected
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_tracker_says_what_to_do_and_training_goes_on():
    records = []
    model = on_mps(network())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ncfast.Tracker(model, num_classes=4, sinks=[records.append]) as tracker:
            for _ in range(3):
                model(X)
                tracker.step(labels=Y)
                tracker.log({"loss": X.mean()})
    said = [str(warning.message) for warning in caught]
    assert sum("Layer '2:input' is not measured" in text and "mps" in text for text in said) == 1
    assert sum("weight.norm is not measured" in text and "mps" in text for text in said) == 1
    assert len(said) == 2
    assert [record["loss"] for record in records] == [pytest.approx(FEATS.mean().item())] * 3


def test_the_remedy_of_the_tracker_works():
    records = []
    model = on_mps(network())
    options = {"num_classes": 4, "metrics": "rnc1", "sinks": [records.append]}
    with ncfast.Tracker(model, pool=lambda output: output.cpu(), **options) as tracker:
        for _ in range(3):
            hidden = model[:2](X)
            model[2](hidden)
            tracker.step(labels=Y.cpu())
    expected = ncfast.rnc1(hidden.cpu(), LABELS).item()
    assert [record["train/rnc1.max"] for record in records] == [pytest.approx(expected)] * 3
