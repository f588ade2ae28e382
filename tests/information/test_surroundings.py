"""Tests that global settings of torch around a call change no result."""

from contextlib import contextmanager

import pytest
import torch
from truths import normal

import ncfast
from ncfast._surroundings import ieee_float32
from ncfast.information.neighbors import knn
from ncfast.ops.decisions import Rule
from ncfast.ops.decisions import reference as decisions

X, Y, Z = normal(60, 3), normal(60, 2, seed=1), normal(60, 1, seed=2)
LABELS = torch.arange(60) % 3
WEIGHT = normal(3, 3, seed=3)
WIDE = normal(300, 40, seed=5)
MANY = Rule(normal(1, 40, seed=6)[0], normal(600, 40, seed=7), normal(600, 1, seed=8)[:, 0])


@contextmanager
def setting(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "meta device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16 default": lambda: default_dtype(torch.float16),
    "bfloat16 default": lambda: default_dtype(torch.bfloat16),
    "float64 default": lambda: default_dtype(torch.float64),
    "inference": torch.inference_mode,
    "deterministic": deterministic,
}
HAS_PRECISION = hasattr(torch.backends, "fp32_precision")  # since torch 2.9
if HAS_PRECISION:
    SURROUNDINGS |= {
        "bfloat16 products": lambda: setting(
            torch.backends.mkldnn.matmul, "fp32_precision", "bf16"
        ),
        "bfloat16 everywhere": lambda: setting(torch.backends, "fp32_precision", "bf16"),
        "TF32, new name": lambda: setting(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    }
CALLS = {
    "entropy": lambda: ncfast.entropy(X),
    "mutual_information": lambda: ncfast.mutual_information(X, Y),
    "rank": lambda: ncfast.mutual_information(X, Y, preprocess="rank"),
    "mixed": lambda: ncfast.mutual_information(X.round(), Y, method="mixed"),
    "jitter": lambda: ncfast.mutual_information(X.round(), Y, duplicates="jitter"),
    "ksg2": lambda: ncfast.mutual_information(X, Y, method="ksg2"),
    "kl": lambda: ncfast.mutual_information(X, Y, method="kl"),
    "numpy": lambda: ncfast.mutual_information(X.numpy(), Y.tolist()),
    "conditional": lambda: ncfast.conditional_mutual_information(X, Y, Z),
    "label_information": lambda: ncfast.label_information(X, LABELS),
    "discrete": lambda: ncfast.discrete_mutual_information(LABELS, (X[:, 0] > 0).long()),
    "superfluous": lambda: ncfast.superfluous_information(Y, LABELS, X, sigma=0.1),
    "sensitivity": lambda: ncfast.noise_sensitivity(Y, LABELS, X, sigmas=[0.1, 0.2]),
    "plane": lambda: ncfast.information_plane(X, Y, LABELS),
    "nhsic": lambda: ncfast.nhsic(X, LABELS),
    "cka": lambda: ncfast.cka(X, Y),
    "rbf cka": lambda: ncfast.cka(X, Y, kernel="rbf"),
    "permutation_test": lambda: ncfast.permutation_test(X, Y, permutations=3),
    "gemm": lambda: knn(WIDE, 5, backend="gemm")[:2],
    "decisions": lambda: decisions(WIDE.float(), [MANY]),
    "collapse": lambda: ncfast.collapse_metrics(
        X.float(), LABELS, weight=WEIGHT, ood_feats=Y @ X[:2]
    ),
    "bound": lambda: ncfast.generalization_bound(X, LABELS, WEIGHT),
    "superfluous bound": lambda: ncfast.superfluous_information_bound(X, LABELS, sigma=0.1),
    "spectra": lambda: ncfast.spectra(X, LABELS),
    "margins": lambda: ncfast.class_margins(X, WEIGHT, pairs=[(0, 1)]),
    "weight_norm": lambda: ncfast.weight_norm([WEIGHT, X]),
    "spectral": lambda: ncfast.spectral_norm_product([WEIGHT, X]),
}


@pytest.mark.filterwarnings("ignore::ncfast.EstimateWarning")
@pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_every_result_is_bitwise_the_same(around):
    failed = {}
    for name, call in CALLS.items():
        expected = digits(call())
        with around():
            found = outcome(call)
        if digits(found) != expected:
            failed[name] = found if isinstance(found, Exception) else "another result"
    assert not failed


def outcome(call):
    try:
        return call()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return error


def digits(found):
    """Every number of a result, to the last bit; tensors print as their default dtype has it."""
    if isinstance(found, torch.Tensor):
        return str(found.dtype), [repr(value) for value in found.flatten().tolist()]
    if isinstance(found, dict):
        return {name: digits(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [digits(value) for value in found]
    if hasattr(found, "__dataclass_fields__"):
        return {name: digits(getattr(found, name)) for name in found.__dataclass_fields__}
    return repr(found)


@pytest.mark.skipif(not HAS_PRECISION, reason="this torch has no fp32_precision")
@pytest.mark.parametrize("inherited", [True, False])
def test_precision_settings_come_back(inherited):
    owner = torch.backends if inherited else torch.backends.mkldnn.matmul
    with setting(owner, "fp32_precision", "bf16"):
        x = normal(200, 50).float()
        rough = x @ x.T
        with ieee_float32(x.device):
            assert torch.allclose((x @ x.T).double(), x.double() @ x.double().T, atol=1e-4)
        assert torch.equal(x @ x.T, rough)
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_the_former_switch_still_reads_back():
    with setting(torch.backends.cuda.matmul, "allow_tf32", True):
        with ieee_float32(torch.device("cpu")):
            pass
        assert torch.backends.cuda.matmul.allow_tf32


def test_settings_before_torch_2_9(monkeypatch):
    """There is no `fp32_precision`; one setting covers the products of every device."""
    monkeypatch.setattr(torch.backends.cuda, "matmul", object())
    seen = ["high"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: seen[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", seen.append)
    with ieee_float32(torch.device("cpu")):
        assert seen[-1] == "highest"
    assert seen[-1] == "high"
