"""Tests gradients through class moments: losses against autograd, and that all else detaches."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from samples import classes, collapsed
from torch import nn

import ncfast
from ncfast import losses
from ncfast.metrics.catalogue import CATALOGUE

WITH_GRADIENT = [
    id_ for id_, m in CATALOGUE.items() if m.needs <= {"moments", "classifier", "bias"}
]
OTHERS = [id_ for id_ in CATALOGUE if id_ not in WITH_GRADIENT]


def inputs(count=40, dim=7, num_classes=5, dtype=torch.float64, seed=0):
    """Features of classes apart, one class absent, and a classifier."""
    generator = torch.Generator().manual_seed(seed)
    feats, labels = classes(count, dim, num_classes - 1, seed=seed)
    weight = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    return feats.to(dtype).requires_grad_(), labels, weight.requires_grad_(), bias.requires_grad_()


def parameters(id_, weight, bias):
    """The classifier as far as a metric reads it."""
    needed = CATALOGUE[id_].arguments
    given = (("weight", weight), ("bias", bias))
    return {name: value for name, value in given if name in needed}


def moments_of(feats, labels, number, backend="auto"):
    return ncfast.class_moments(
        feats, labels, num_classes=number, backend=backend, differentiable=True
    )


@pytest.mark.parametrize("dim", [7, 3], ids=["K < D", "K > D"])
@pytest.mark.parametrize("id_", WITH_GRADIENT)
def test_gradient_of_every_metric(id_, dim):
    feats, labels, weight, bias = inputs(dim=dim)
    named = parameters(id_, weight, bias)

    def value(x, *given):
        moments = moments_of(x, labels, 5)
        return losses.metric(id_, moments, **dict(zip(named, given, strict=True)))

    assert torch.autograd.gradcheck(value, (feats, *named.values()))


@pytest.mark.parametrize("id_", WITH_GRADIENT)
def test_value_is_that_of_the_metric(id_):
    feats, labels, weight, bias = inputs()
    named = parameters(id_, weight, bias)
    found = losses.metric(id_, moments_of(feats, labels, 5), **named)
    expected = ncfast.collapse_metrics(feats, labels, num_classes=5, metrics=[id_], **named)[id_]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("id_", OTHERS)
def test_a_metric_without_a_gradient_is_refused(id_):
    feats, labels, *_ = inputs()
    with pytest.raises(ValueError, match="reads the features again"):
        losses.metric(id_, moments_of(feats, labels, 5))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["within_class_variance", "rnc1", "cdnv", "etf_error"])
@pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)]
)
def test_half_types_against_float64(name, dtype, budget, backend):
    feats, labels, *_ = inputs(count=200, dim=33, num_classes=7)
    stored = feats.detach().to(dtype)
    function = getattr(losses, name)
    found, expected = [], []
    for x, kept in ((stored, found), (stored.double(), expected)):
        x = x.clone().requires_grad_()
        loss = function(x, labels, num_classes=7, backend=backend)
        kept += [loss.detach(), *torch.autograd.grad(loss, x)]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    assert found[1].dtype == dtype
    assert ((found[1].double() - expected[1]).norm() / expected[1].norm()) < budget


@pytest.mark.parametrize("level", [1e-3, 1e-5, 1e-7])
def test_collapsed_features(level):
    feats, labels = collapsed(level, count=300, dim=40, num_classes=4)
    x, exact = feats.clone().requires_grad_(), feats.double().requires_grad_()
    losses.rnc1(x, labels).backward()
    within = sum((exact[labels == c] - exact[labels == c].mean(0)).square().sum() for c in range(4))
    (within / 300 / feats.double().norm(dim=1).max() ** 2).backward()
    assert ((x.grad.double() - exact.grad).norm() / exact.grad.norm()) < 1e-6


def test_the_scale_is_constant_unless_asked_for():
    feats, labels, *_ = inputs()
    moments = moments_of(feats, labels, 5)
    (found,) = torch.autograd.grad(losses.rnc1(feats, labels, num_classes=5), feats)
    constant = moments.within_trace / moments.norm_max.detach() ** 2
    torch.testing.assert_close(found, torch.autograd.grad(constant, feats, retain_graph=True)[0])
    for scale, norm in (("max", moments.norm_max), ("mean", moments.norm_mean)):
        loss = losses.rnc1(feats, labels, num_classes=5, scale=scale, differentiate_scale=True)
        whole = moments.within_trace / norm**2
        expected = torch.autograd.grad(whole, feats, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(loss, feats)[0], expected)
    with pytest.raises(ValueError, match="`scale`"):
        losses.rnc1(feats, labels, scale="largest")


def test_a_context_counts_as_a_constant():
    feats, labels, *_ = inputs()
    earlier, their_labels, *_ = inputs(seed=9)
    context = ncfast.class_moments(earlier, their_labels, num_classes=5)

    def of_both(x):
        whole = torch.cat([x, earlier.detach()])
        return losses.cdnv(whole, torch.cat([labels, their_labels]), num_classes=5)

    found = losses.cdnv(feats, labels, context=context)
    torch.testing.assert_close(found, of_both(feats))
    expected = torch.autograd.grad(of_both(feats), feats)[0]
    torch.testing.assert_close(torch.autograd.grad(found, feats)[0], expected)
    assert torch.autograd.gradcheck(lambda x: losses.rnc1(x, labels, context=context), feats)
    with pytest.raises(ValueError, match="`context`"):
        losses.cdnv(feats, labels, context=ncfast.ClassMoments.empty(5, 8))
    with pytest.raises(TypeError, match="`context`"):
        losses.cdnv(feats, labels, context=feats)


def simplex(number, dim):
    return torch.eye(number, dim) - nn.functional.pad(
        torch.full((number, number), 1 / number), (0, dim - number)
    )


HARD = {
    "collapsed to a simplex": (simplex(5, 8)[torch.arange(20) % 5], torch.arange(20) % 5, 5),
    "orthogonal means": (torch.eye(5, 8)[torch.arange(20) % 5], torch.arange(20) % 5, 5),
    "one class present": (torch.arange(40.0).reshape(20, 2).sin(), torch.zeros(20).long(), 5),
    "absent classes": (torch.eye(7, 8)[torch.arange(20) % 5], torch.arange(20) % 5, 7),
    "coinciding means": (
        torch.eye(5, 8)[(torch.arange(20) % 5).clamp(max=3)],
        torch.arange(20) % 5,
        5,
    ),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("id_", WITH_GRADIENT)
def test_a_finite_value_has_a_finite_gradient(id_, case):
    """A square root or a quotient at zero must not end a training."""
    feats, labels, number = HARD[case]
    x = feats.double().requires_grad_()
    weight = torch.eye(number, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(number, dtype=torch.float64, requires_grad=True)
    named = parameters(id_, weight, bias)
    value = losses.metric(id_, moments_of(x, labels, number), **named)
    if value.isfinite():
        for gradient in torch.autograd.grad(value, [x, *named.values()], allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_a_second_derivative_is_an_error():
    feats, labels, *_ = inputs()
    loss = losses.rnc1(feats, labels)
    (first,) = torch.autograd.grad(loss, feats, create_graph=True)
    with pytest.raises(RuntimeError, match="second one was asked for"):
        first.square().sum().backward()


def test_torch_compile_and_transforms_differentiate():
    feats, labels, *_ = inputs()

    def loss(x):
        return losses.within_class_variance(x, labels, num_classes=5)

    expected = torch.autograd.grad(loss(feats), feats)[0]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert torch.autograd.grad(compiled(feats), feats)[0].equal(expected)
    torch.testing.assert_close(torch.func.grad(loss)(feats.detach()), expected)
    operator = torch.ops.ncfast.class_moments
    assert torch.autograd.gradcheck(lambda x: operator(x, labels, 5)[1:], feats)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operator, (feats, labels, 5), test_utils=utils)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["within_class_variance", "rnc1", "cdnv", "etf_error"])
def test_a_compiled_training_step(name, dtype):
    """The network and the loss in one graph, for batches of any size."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(6, 8, generator=generator).to(dtype).requires_grad_()

    def step(x, labels):
        feats = torch.relu(x @ weight)
        return feats.float().square().mean() + getattr(losses, name)(feats, labels, num_classes=4)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for count in (40, 56, 41):
        x, labels = torch.randn(count, 6, generator=generator).to(dtype), torch.arange(count) % 4
        expected = step(x, labels)
        found = compiled(x, labels)
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found, weight)
        assert gradient.equal(torch.autograd.grad(expected, weight)[0])


@pytest.mark.slow
@pytest.mark.parametrize("id_", WITH_GRADIENT)
def test_every_metric_compiles(id_):
    torch.compiler.reset()
    feats, labels, weight, bias = inputs()
    named = parameters(id_, weight, bias)

    def value(x):
        return losses.metric(id_, moments_of(x, labels, 5), **named)

    found = torch.compile(value, backend="aot_eager", fullgraph=True)(feats)
    torch.testing.assert_close(found, value(feats))
    expected = torch.autograd.grad(value(feats), feats)[0]
    torch.testing.assert_close(torch.autograd.grad(found, feats)[0], expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch lacks a rule for some
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["within_class_variance", "rnc1", "cdnv", "etf_error"])
def test_vmap_runs_each_entry(name, backend):
    """With labels in common or of their own, inside and outside of a gradient."""
    feats, labels, *_ = inputs()
    batch = torch.stack([feats.detach() * scale + scale for scale in (1.0, 2.0, 3.0)])
    of_each = torch.stack([labels, labels.flip(0), labels.roll(1)])

    def loss(x, y):
        return getattr(losses, name)(x, y, num_classes=5, backend=backend)

    for y, dims in ((labels, (0, None)), (of_each, (0, 0)), (of_each.T, (0, 1))):
        every = y.T if dims[1] == 1 else y.expand(3, -1)
        values = torch.stack([loss(x, c) for x, c in zip(batch, every, strict=True)])
        slopes = [torch.func.grad(loss)(x, c) for x, c in zip(batch, every, strict=True)]
        torch.testing.assert_close(torch.vmap(loss, dims)(batch, y), values)
        found = torch.vmap(torch.func.grad(loss), dims)(batch, y)
        torch.testing.assert_close(found, torch.stack(slopes))
        outside = torch.func.grad(lambda x, y=y, dims=dims: torch.vmap(loss, dims)(x, y).sum())
        torch.testing.assert_close(outside(batch), torch.stack(slopes))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("recording", [True, False])
def test_a_pullback_runs_after_its_transform(backend, recording):
    """The function that torch.func.vjp returns is called outside of the transform."""
    feats, labels, *_ = inputs()

    def loss(x):
        return losses.cdnv(x, labels, num_classes=5, backend=backend)

    value, pullback = torch.func.vjp(loss, feats.detach())
    with torch.set_grad_enabled(recording):
        (found,) = pullback(torch.ones_like(value))
    torch.testing.assert_close(found, torch.func.grad(loss)(feats.detach()))


def test_a_jacobian_by_rows():
    feats, labels, *_ = inputs()
    x = feats.detach()

    def both(x):
        moments = moments_of(x, labels, 5)
        return torch.stack([moments.within_trace, moments.norm_max, moments.norm_sum])

    expected = [torch.func.grad(lambda x, i=i: both(x)[i])(x) for i in range(3)]
    torch.testing.assert_close(torch.func.jacrev(both)(x), torch.stack(expected))


def test_metrics_under_vmap():
    feats, labels, *_ = inputs()
    batch = torch.stack([feats.detach(), feats.detach() * 2])
    found = torch.vmap(lambda x: ncfast.nc1(x, labels, num_classes=5))(batch)
    torch.testing.assert_close(
        found, torch.stack([ncfast.nc1(x, labels, num_classes=5) for x in batch])
    )


_of_torch = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda loss, x: torch.func.jvp(loss, (x,), (x,)), RuntimeError, "torch.func.grad, vjp"),
        (lambda loss, x: torch.func.jacfwd(loss)(x), RuntimeError, "torch.func.grad, vjp"),
        (lambda loss, x: torch.func.hessian(loss)(x), RuntimeError, "torch.func.grad, vjp"),
        (lambda loss, x: torch.vmap(loss)(x.expand(0, -1, -1)), ValueError, "an empty one"),
    ],
    ids=["jvp", "jacfwd", "hessian", "empty batch"],
)
@_of_torch
def test_what_no_transform_gives_is_said(call, error, words):
    feats, labels, *_ = inputs()
    with pytest.raises(error, match=words):
        call(lambda x: losses.rnc1(x, labels, num_classes=5), feats.detach())


@_of_torch
def test_dual_numbers_are_refused():
    feats, labels, *_ = inputs()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(feats.detach(), feats.detach())
        with pytest.raises(RuntimeError, match="forward-mode"):
            losses.rnc1(dual, labels, num_classes=5)


def test_vmap_hides_values():
    feats, labels, *_ = inputs()
    batch, of_each = feats.detach().expand(2, -1, -1), labels.expand(2, -1)
    with pytest.raises(ValueError, match="`num_classes`"):
        torch.vmap(losses.rnc1)(batch, of_each)
    with pytest.raises(ValueError, match="`validate`"):
        torch.vmap(lambda x: ncfast.class_moments(x, labels, validate="full").means)(batch)


@pytest.mark.parametrize("change", [lambda w: w.to(torch.cfloat), lambda w: w.to_sparse()])
def test_a_classifier_that_is_not_dense_and_real_is_an_error(change):
    feats, labels, weight, *_ = inputs()
    moments = ncfast.class_moments(feats, labels, num_classes=5, differentiable=True)
    with pytest.raises(TypeError, match="`weight` to "):
        losses.metric("nc3.self_duality", moments, weight=change(weight))
    with pytest.raises(ValueError, match="`id` to name a metric"):
        losses.metric(["nc3.self_duality"], moments, weight=weight)


_COMPILED = """
import torch, ncfast
x, y = torch.randn(12, 3, requires_grad=True), torch.arange(12) % 3
def compiled(function):
    return torch.compile(lambda x: function(x, y, num_classes=3), backend="aot_eager")
compiled(ncfast.rnc1)(x)
compiled(ncfast.losses.rnc1)(x).backward()
expected = torch.autograd.grad(ncfast.losses.rnc1(x, y, num_classes=3), x)[0]
torch.testing.assert_close(x.grad, expected)
"""


def test_a_loss_compiled_after_a_metric_has_its_gradient():
    """In a new process: what torch knows of an operator at its first call stays so."""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", _COMPILED], check=True)


def test_a_gradient_takes_its_share_of_a_loss():
    """With a float32 network: the sum of two losses, and a feature that only one of them sees."""
    torch.manual_seed(0)
    net, head = nn.Linear(6, 4), nn.Linear(4, 3)
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    feats = net(x)
    loss = nn.functional.cross_entropy(head(feats), y) + 0.1 * losses.cdnv(feats, y)
    loss.backward()
    assert net.weight.grad.dtype == torch.float32
    assert net.weight.grad.isfinite().all()


def test_everything_else_detaches():
    feats, labels, weight, bias = inputs()
    moments = moments_of(feats, labels, 5)
    assert moments.requires_grad
    assert moments.merge(moments.detach()).requires_grad
    values = ncfast.collapse_metrics(moments, weight=weight, bias=bias, metrics="all")
    values |= ncfast.collapse_metrics(feats, labels, num_classes=5, metrics="all")
    values |= {
        "rnc1": ncfast.rnc1(moments),
        "nc1": ncfast.nc1(moments),
        "cdnv": ncfast.cdnv(moments),
    }
    values["nc2"] = ncfast.nc2(moments)
    values["around"] = ncfast.rnc1(feats, labels, num_classes=5, around=moments)
    values["gap"] = ncfast.realised_gap(moments, moments)
    values["bound"] = ncfast.superfluous_information_bound(moments, sigma=1.0, form="trace")
    values |= {id_: CATALOGUE[id_](moments) for id_ in ("nc2.condition", "nc1.cdnv")}
    values |= moments.state_dict()
    accumulator = ncfast.Accumulator(num_classes=5, dim=feats.shape[1])
    accumulator.update(feats, labels)
    values |= accumulator.compute()
    assert [name for name, value in values.items() if value.requires_grad] == []
    with pytest.raises(ValueError, match="differentiable"):
        moments.update_(feats, labels)


contexts = weakref.WeakSet()


class Watched(torch.autograd.Function):
    """The identity; `contexts` knows which of its nodes a graph still holds."""

    @staticmethod
    def forward(ctx, x):
        contexts.add(ctx)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def tracked(feats, labels, tmp_path):
    tracker = ncfast.Tracker(num_classes=3, sinks=[tmp_path / "log.jsonl"])
    tracker.step(feats=feats, labels=labels)
    return tracker


def accumulated(feats, labels, tmp_path):
    accumulator = ncfast.Accumulator(num_classes=3, dim=feats.shape[1])
    accumulator.update(feats, labels)
    return accumulator, accumulator.compute()


def measured(feats, labels, tmp_path):
    metric = pytest.importorskip("ncfast.integrations.torchmetrics").CollapseMetric(
        3, feats.shape[1]
    )
    metric.update(feats, labels)
    return metric, metric.compute()


def lossy(feats, labels, tmp_path):
    return losses.rnc1(feats, labels)


@pytest.mark.parametrize("keeper", [tracked, accumulated, measured])
def test_no_graph_survives(keeper, tmp_path):
    """What was made from features with a graph is kept, and the graph is not."""
    x, y = torch.randn(12, 4, requires_grad=True), torch.arange(12) % 3
    for use, held in ((lossy, 1), (keeper, 0)):
        feats = Watched.apply(x)
        kept = use(feats, y, tmp_path)
        del feats
        gc.collect()
        assert len(contexts) == held, kept
        if hasattr(kept, "close"):
            kept.close()
        del kept


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: losses.metric("nc7", m), ValueError, "no metric has that id"),
        (lambda m: losses.metric("nc3.self_duality", m), ValueError, "`weight`"),
        (lambda m: losses.metric("nc1.cdnv", 3), TypeError, "`moments`"),
        (
            lambda m: losses.metric("nc3.self_duality", m, weight=torch.zeros(2, 2)),
            ValueError,
            "`weight` of shape",
        ),
    ],
)
def test_bad_input(call, error, words):
    feats, labels, *_ = inputs()
    with pytest.raises(error, match=words):
        call(moments_of(feats, labels, 5))
