"""Tests the checks themselves: right functions pass them, and each kind of error fails."""

import importlib
import pkgutil
from dataclasses import replace

import pytest
import torch

import ncfast.ops
from ncfast.ops._registry import Operation
from ncfast.ops._second_net import error_on_first_rows
from ncfast.ops.moments import RawMoments
from ncfast.self_check import checks, samples, worker
from ncfast.self_check.forms import Wrong, forms

CPU = torch.device("cpu")
FORMS = {(form.operation, form.path): form for form in forms()}
EVERY = [(name, dtype) for name, form in FORMS.items() for dtype in form.dtypes]


def nan_for_invalid(form):
    """The reference as a device computes it: on the CPU an update raises an error instead."""

    def update(feats, labels, state, **options):
        invalid = (labels != -100) & ((labels < 0) | (labels >= len(state.counts)))
        mask = options["mask"]
        invalid = invalid if mask is None else invalid & mask
        form.reference(feats, labels.where(~invalid, 0), state, **options)
        if bool(invalid.any()):
            state.norm_sum.fill_(torch.nan)
            state.norm_max.fill_(torch.nan)

    return update if "update" in form.operation else form.reference


def run(form, kernels, dtype=torch.float32):
    return checks.run(replace(form, kernels=kernels), dtype, CPU)


@pytest.mark.parametrize(("name", "dtype"), EVERY, ids=str)
def test_the_reference_passes(name, dtype):
    assert run(FORMS[name], nan_for_invalid(FORMS[name]), dtype) == ""


MOMENTS = FORMS["class moments", "sorted rows"]


def changed(**change):
    """Class moments of which some parts are changed: name=function of the right part."""

    def kernels(feats, labels, num_classes):
        raw = MOMENTS.reference(feats, labels, num_classes)
        return raw._replace(**{name: of(getattr(raw, name)) for name, of in change.items()})

    return kernels


def float32_two_pass(feats, labels, num_classes):
    raw = MOMENTS.reference(feats, labels, num_classes)
    x = feats.float()
    means = torch.zeros(num_classes, x.shape[1]).index_add_(0, labels.clamp(0, num_classes - 1), x)
    means = means / raw.counts.clamp(min=1).unsqueeze(1)
    away = (x - means[labels.clamp(0, num_classes - 1)]).square().sum(1)
    within = torch.zeros(num_classes).index_add_(0, labels.clamp(0, num_classes - 1), away)
    return raw._replace(within_ss=within.double() + 0 * raw.within_ss)


def without_nan(feats, labels, num_classes):
    raw = MOMENTS.reference(feats, labels.clamp(0, num_classes - 1), num_classes)
    return RawMoments(*raw)


def reads_beyond(feats, labels, num_classes):
    """Columns beyond the last, as a wrong mask would."""
    raw = MOMENTS.reference(feats, labels, num_classes)
    if feats.is_contiguous():
        return raw
    beyond = feats.as_strided((1, feats.shape[1] + 1), feats.stride())[0, -1]
    return raw._replace(norm_sum=raw.norm_sum + 0 * beyond)


def float32_norms(feats, labels, num_classes):
    raw = MOMENTS.reference(feats, labels, num_classes)
    return raw._replace(norm_sum=feats.float().square().sum(1).sqrt().sum() + 0 * raw.norm_sum)


def ignores_strides(feats, labels, num_classes):
    flat = feats.as_strided(feats.shape, (feats.shape[1], 1))
    return MOMENTS.reference(flat, labels, num_classes)


WRONG = {
    "counts": (changed(counts=lambda x: x + 1), "counts"),
    "means": (changed(means=lambda x: x * (1 + 1e-3)), "means"),
    "sums of squares": (changed(within_ss=lambda x: x * (1 + 1e-5)), "within_ss"),
    "a constant": (changed(within_ss=lambda x: x + 1e-40), "within_ss: inf times"),
    "norms": (changed(norm_sum=lambda x: x * (1 + 1e-5)), "norm_sum"),
    "a lost class": (changed(means=lambda x: x.index_fill(0, torch.tensor([0]), 0)), "means"),
    "float32": (float32_two_pass, "spread 1e-07"),
    "no NaN for a label": (without_nan, "for a label"),
    "a hidden NaN": (changed(within_ss=torch.nan_to_num), "NaN|nan"),
    "overflow": (float32_norms, "norm_sum.*magnitudes"),
    "memory beyond": (reads_beyond, "layout: "),
    "strides": (ignores_strides, "layout"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_class_moments_fail(kind):
    kernels, words = WRONG[kind]
    with pytest.raises(Wrong, match=words):
        run(MOMENTS, kernels)


def tf32(x):
    """Rounded to the eleven bits that a tensor core keeps of float32."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32).double()


def rough_scatter(feats, labels, means):
    away = tf32(feats.double() - means[labels.clamp(0, len(means) - 1)])
    return away.T @ away


def rough_projection(feats, labels, means, vectors):
    away = feats.double() - means[labels.clamp(0, len(means) - 1)]
    return (tf32(away) @ tf32(vectors).T).square().sum(0)


def rough_decisions(feats, centres, weights, offsets):
    form = FORMS["decisions", ""]
    return form.reference(feats, centres, weights.float().double(), offsets)


@pytest.mark.parametrize(
    ("operation", "kernels"),
    [
        ("the scatter matrix", rough_scatter),
        ("projections", rough_projection),
        ("decisions", rough_decisions),
    ],
)
def test_the_precision_of_a_tensor_core_is_not_enough(operation, kernels):
    with pytest.raises(Wrong, match="times the allowed error"):
        run(FORMS[operation, ""], kernels)


def test_decisions_out_of_range_fail():
    form = FORMS["decisions", ""]
    with pytest.raises(Wrong, match="decisions: inf times"):
        run(form, lambda *given: form.reference(*given) + 100)


@pytest.mark.parametrize("wrong", ["within_ss", "counts"])
def test_an_update_that_loses_a_batch_fails(wrong):
    form = FORMS["the update of class moments", ""]

    def kernels(feats, labels, state, **options):
        before = getattr(state, wrong).clone()
        form.reference(feats, labels, state, **options)
        if bool((before > 0).any()):
            getattr(state, wrong).copy_(before)

    with pytest.raises(Wrong, match=wrong):
        run(form, kernels)


@pytest.mark.parametrize("name", FORMS, ids=str)
def test_comparing_on_a_device_reads_no_value(name):
    """Meta tensors have none: whatever waited for a device would raise."""
    form = FORMS[name]
    given, named = form.on(samples.collapsed(0.1, 90, 8, 3, torch.float32), torch.device("meta"))
    ratio = error_on_first_rows(form.comparison, form.reference, form.reference, *given, **named)
    assert ratio.is_meta
    assert ratio.shape == ()


def test_what_kernels_raise_is_passed_on():
    def kernels(*given):
        raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        run(MOMENTS, kernels)


def test_every_layout_holds_the_same_numbers():
    base = samples.layouts(torch.float32, 40)
    for sample in base:
        view = samples.placed(sample, CPU)
        assert torch.equal(view, sample.feats)
        dense = sample.layout == "dense"
        assert (view.is_contiguous() and view.storage_offset() == 0) == dense, sample.layout


def test_every_operation_with_kernels_is_checked():
    found = set()
    for module in pkgutil.iter_modules(ncfast.ops.__path__):
        loaded = importlib.import_module(f"ncfast.ops.{module.name}")
        found |= {
            each.name
            for each in vars(loaded).values()
            if isinstance(each, Operation) and each.triton is not None
        }
    assert len(found) >= 5
    assert found | {"class moments"} == {form.operation for form in FORMS.values()}


def test_every_subject_is_checked_once_and_float32_first():
    found = worker.subjects()
    assert len(set(found)) == len(found)
    forms_alone = [each for each in found if each.operation != "neighbours"]
    assert len(forms_alone) == len(EVERY)
    kinds = [each.dtype for each in forms_alone]
    assert kinds == sorted(kinds, key=["float32", "bfloat16", "float16", "float64"].index)
