"""The gradient through the class moments, in one read and one write of the features.

With G the gradient of a loss with respect to each moment, that with respect to row i of class c is

    G_mean[c] / n_c + 2 (x_i - mu_c) G_ss[c] + G_norm_sum x_i / norm(x_i),

and for the row of the largest norm, the first one of several, G_norm_max x_i / norm(x_i) as well. A
row of zeros has no direction: the terms of its norm are zero. The sum of squares has no term for
the movement of its mean, because the deviations of a class sum to zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ncfast.kernels.configuration import gradient_config
from ncfast.ops import _comparison, _raw
from ncfast.ops import moments as forward
from ncfast.ops._registry import Operation, one_by_one, operator
from ncfast.ops.blocks import first_pass_rows
from ncfast.ops.grouping import LabelPlan
from ncfast.ops.moments import RawMoments


def reference(
    feats: Tensor,
    labels: Tensor,
    counts: Tensor,
    means: Tensor,
    of_means: Tensor | None,
    of_within_ss: Tensor | None,
    of_norm_sum: Tensor | None,
    of_norm_max: Tensor | None,
) -> Tensor:
    """The gradient with respect to ``feats``, block by block in float64; no host synchronisation.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits.
        labels: (N,) integer class indices; a row whose label is outside 0..K-1 gets NaN.
        counts: (K,) int64, the moments of ``feats``.
        means: (K, D) float64, likewise.
        of_means: (K, D) float64, the gradient with respect to the means; None is zero.
        of_within_ss: (K,), with respect to the sums of squares, likewise.
        of_norm_sum: (), with respect to the sum of norms, likewise.
        of_norm_max: (), with respect to the largest norm, likewise.

    Returns:
        (N, D) in the dtype of ``feats``, contiguous.
    """
    classes = labels.to(torch.int64)
    inside = (classes >= 0) & (classes < len(counts))
    classes = torch.where(inside, classes, 0)
    shared, slopes = class_terms(counts, means, of_means, of_within_ss)
    out = torch.empty_like(feats, memory_format=torch.contiguous_format)
    norms = None
    if of_norm_sum is not None or of_norm_max is not None:
        norms = torch.cat([_norms(block) for block in feats.split(first_pass_rows(feats))])
        pull = torch.zeros_like(norms) if of_norm_sum is None else of_norm_sum.expand_as(norms)
        if of_norm_max is not None:
            pull = pull + torch.where(_first_largest(norms), of_norm_max, 0.0)
        slope = torch.where(norms > 0, pull / norms, 0.0)
    for begin in range(0, len(feats), first_pass_rows(feats)):
        some = slice(begin, begin + first_pass_rows(feats))
        x, c = feats[some].to(torch.float64), classes[some]
        factor = slopes.index_select(0, c)
        if norms is not None:
            factor = factor + slope[some]
        found = torch.addcmul(shared.index_select(0, c), x, factor.unsqueeze(1))
        out[some] = torch.where(inside[some].unsqueeze(1), found, torch.nan)
    return out


def class_terms(
    counts: Tensor, means: Tensor, of_means: Tensor | None, of_within_ss: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the rows of a class share, (K, D), and the factor of its rows, (K,), both float64."""
    slopes = means.new_zeros(len(means)) if of_within_ss is None else 2 * of_within_ss
    shared = means * -slopes.unsqueeze(1)
    if of_means is not None:
        shared = shared + of_means / counts.clamp(min=1).to(torch.float64).unsqueeze(1)
    return shared, slopes


def _norms(block: Tensor) -> Tensor:
    return torch.linalg.vector_norm(block.to(torch.float64), dim=1)


def _first_largest(norms: Tensor) -> Tensor:
    """Where the first of the largest norms is, (N,) bool."""
    row = torch.arange(len(norms), device=norms.device)
    largest = torch.where(norms == norms.amax(), row, len(norms))
    return row == largest.amin()


def _cpu(
    feats: Tensor,
    labels: Tensor,
    counts: Tensor,
    means: Tensor,
    of_means: Tensor | None,
    of_within_ss: Tensor | None,
    of_norm_sum: Tensor | None,
    of_norm_max: Tensor | None,
) -> Tensor:
    gradients = (of_means, of_within_ss, of_norm_sum, of_norm_max)
    if not _raw.dense_rows(feats, labels):
        return reference(feats, labels, counts, means, *gradients)
    labels, label_code = _raw.with_code(labels)
    dense = [None if g is None else g.to(torch.float64).contiguous() for g in gradients]
    counts, means = counts.contiguous(), means.contiguous()
    out = torch.empty_like(feats, memory_format=torch.contiguous_format)
    _raw.loaded().moment_gradients(
        *_raw.matrix(feats),
        labels.data_ptr(),
        label_code,
        labels.stride(0),
        len(counts),
        counts.data_ptr(),
        means.data_ptr(),
        *(0 if g is None else g.data_ptr() for g in dense),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def _triton(
    feats: Tensor,
    labels: Tensor,
    counts: Tensor,
    means: Tensor,
    of_means: Tensor | None,
    of_within_ss: Tensor | None,
    of_norm_sum: Tensor | None,
    of_norm_max: Tensor | None,
) -> Tensor:
    """Call a kernel that reads the features once; a second one completes the largest row."""
    from ncfast.kernels.gradient import moment_gradients

    shared, slopes = class_terms(counts, means, of_means, of_within_ss)
    config = gradient_config(*feats.shape)
    return moment_gradients(feats, labels, shared, slopes, (of_norm_sum, of_norm_max), config)


def _on_cpu(feats: Tensor, *rest: Any) -> Tensor:
    return (reference if _raw.extension is None else _cpu)(feats, *rest)


def _eagerly(feats: Tensor, *rest: Any) -> Tensor:
    return GRADIENT.eagerly(feats, *rest)


def _fake(feats: Tensor, *rest: Any) -> Tensor:
    del rest
    return torch.empty_like(feats, memory_format=torch.contiguous_format)


_ARGUMENTS = (
    "(Tensor feats, Tensor labels, Tensor counts, Tensor means, Tensor? of_means, "
    "Tensor? of_within_ss, Tensor? of_norm_sum, Tensor? of_norm_max) -> Tensor"
)
_CPU_OPERATOR = operator(f"moment_gradients{_ARGUMENTS}", _fake, cpu=_on_cpu, cuda=reference)
GRADIENT = Operation(
    "moment gradients",
    reference,
    _cpu,
    _triton,
    operator(f"triton_moment_gradients{_ARGUMENTS}", _fake, cpu=reference, cuda=_eagerly),
    float64=True,
    comparison=_comparison.GRADIENT,
)


class _Moments(torch.autograd.Function):
    """Class moments whose gradient is `GRADIENT`."""

    @staticmethod
    def forward(
        feats: Tensor, labels: Tensor, num_classes: int, backend: str, plan: LabelPlan | None
    ) -> RawMoments:
        run = forward.select(backend, feats, plan)
        return RawMoments(*run(feats.detach(), labels, num_classes))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: RawMoments) -> None:
        feats, labels, _, ctx.backend, _ = inputs
        _save(ctx, feats, labels, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # detached, because the function that torch.func.vjp returns runs outside of its transform,
        # where what was saved is a wrapper without memory of its own
        feats = ctx.saved_tensors[0].detach()
        return _gradient(ctx, gradients, _select(ctx.backend, feats)), *_NONE

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> Any:
        return one_by_one(_Moments.apply)(info, in_dims, *given)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise RuntimeError(_NO_FORWARD_MODE)


def _select(backend: str, feats: Tensor) -> Any:
    traced_on_cpu = _raw.traced(feats) and _raw.why_not_cpu(feats) is None
    if traced_on_cpu and backend in ("auto", "cpu"):
        return _CPU_OPERATOR
    return GRADIENT.select(backend, feats)


_NONE = (None, None, None, None)
_NO_FORWARD_MODE = (
    "Expected a backward pass through class moments but forward-mode differentiation was asked for "
    "(jvp, jacfwd, hessian or dual numbers): they have none. Use torch.func.grad, vjp or jacrev."
)


def _save(ctx: Any, feats: Tensor, labels: Tensor, output: tuple[Tensor, ...]) -> None:
    counts, means = output[:2]
    ctx.mark_non_differentiable(counts)
    ctx.set_materialize_grads(False)  # a moment that the loss does not use costs nothing
    ctx.save_for_backward(feats, labels, counts, means)


def _gradient(ctx: Any, gradients: tuple[Tensor | None, ...], run: Any) -> Tensor | None:
    of_moments = gradients[1:]  # without that of the counts
    if all(g is None for g in of_moments):
        return None
    feats, labels, counts, means = ctx.saved_tensors
    needs = any(t is not None and t.requires_grad for t in (feats, *of_moments))
    given = (feats, labels, counts, means, *of_moments)
    if _raw.transformed() or (torch.is_grad_enabled() and needs):
        return _OnlyOnce.apply(run, *given)  # type: ignore[no-untyped-call]
    return run(*(t if t is None else t.detach() for t in given))


class _OnlyOnce(torch.autograd.Function):
    """The gradient where it may be differentiated again, which is an error."""

    @staticmethod
    def forward(run: Any, *given: Tensor | None) -> Tensor:
        found: Tensor = run(*(t if t is None else t.detach() for t in given))
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "Expected one derivative of class moments but a second one was asked for: they are "
            "differentiable once. Drop create_graph=True, or write the penalty in plain torch."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> Any:
        return one_by_one(_OnlyOnce.apply)(info, in_dims, *given)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise RuntimeError(_NO_FORWARD_MODE)


def differentiable(
    backend: str, feats: Tensor, labels: Tensor, num_classes: int, plan: LabelPlan | None = None
) -> RawMoments:
    """The moments of ``feats`` with a gradient; see `ncfast.ops.moments.select`.

    Raises:
        RuntimeError: when a second derivative is asked for.
    """
    run = forward.select(backend, feats, plan)
    if torch.compiler.is_compiling() and run is not forward.reference:
        return run(feats, labels, num_classes)  # an operator, which has a gradient of its own
    found = _Moments.apply(feats, labels, num_classes, backend, plan)  # type: ignore[no-untyped-call]
    return RawMoments(*found)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs[0], inputs[1], output)


def _backward_of(run: Any) -> Any:
    return lambda ctx, *gradients: (_gradient(ctx, gradients, run), None, None)


# so that whatever traces an operator of the moments differentiates it
torch.library.register_autograd(
    "ncfast::class_moments", _backward_of(_CPU_OPERATOR), setup_context=_setup
)
torch.library.register_autograd(
    "ncfast::triton_moments", _backward_of(GRADIENT.operator), setup_context=_setup
)
