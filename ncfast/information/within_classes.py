"""Estimates inside classes of I(Z;X|Y) for Z = g(X) + B_g sigma noise, from aligned samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ncfast._arrays import as_integer
from ncfast.information import caveats
from ncfast.information.duplicates import private_generator
from ncfast.information.entropy import Norm, kl_terms
from ncfast.information.errors import LIMIT, PLENTY, jackknife_stderr
from ncfast.information.estimate import Estimate
from ncfast.information.mutual_information import (
    ESTIMATORS,
    Blocks,
    JointNorm,
    Method,
)
from ncfast.information.neighbors import knn
from ncfast.information.preprocess import Preprocess, by_class, transform
from ncfast.information.reduction import principal
from ncfast.information.samples import (
    check_choice,
    check_k,
)
from ncfast.information.signals import pair_signals
from ncfast.metrics.bounds import superfluous_information_bound

Estimator = Literal["channel"] | Method


@dataclass(frozen=True)
class Options:
    """How I(Z;X|Y) is estimated."""

    k: int
    method: Estimator
    metric: JointNorm
    preprocess: Preprocess
    stderr: bool
    backend: str


@dataclass(frozen=True)
class Aligned:
    """One pass over the same samples: row i of everything is sample i."""

    feats: Tensor  # (N, D), as they came
    code: Tensor  # (N, r), projected, without noise
    inputs: Tensor  # (N, s), projected and transformed inside each class
    classes: Tensor
    norm_max: float
    explained: Mapping[str, float]
    doubts: tuple[str, ...] = ()


def check_sigma(sigma: float) -> None:
    """Check the noise level.

    Raises:
        ValueError: it is not positive and finite.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(
            f"Expected argument `sigma` to be positive and finite but got {sigma}. Without noise "
            "I(Z;X|Y) of a deterministic network is infinite, and no estimate of it means anything."
        )


def input_code(
    inputs: Tensor, classes: Tensor, dim: int | None, preprocess: Preprocess
) -> tuple[Tensor, float]:
    """Inputs projected and transformed inside each class, and the variance that is left."""
    found = principal(inputs, dim, classes)
    code = by_class(lambda part: transform(part, preprocess), inputs @ found.axes, classes)
    return code, found.explained


def align(
    feats: Tensor, classes: Tensor, code: Tensor, dim: int | None, explained: float
) -> Aligned:
    """The features beside an input code that is there already."""
    found = principal(feats, dim, classes)
    norms = torch.linalg.vector_norm(feats, dim=1)
    norm = float(norms.max())
    if norm == 0:
        raise ValueError(
            "Expected argument `feats` to have a row that is not zero but all are. The noise is "
            "relative to the largest row norm: look at the layer, it is dead."
        )
    shares = {"explained_feats": found.explained, "explained_inputs": explained}
    doubts = tuple(caveats.outlying(norms))
    return Aligned(feats, feats @ found.axes, code, classes, norm, shares, doubts)


def channel_terms(
    blocks: Blocks, k: int, groups: Tensor | None, metric: JointNorm, backend: str
) -> tuple[Tensor, str]:
    """h(Z) - h(noise) of the blocks Z and noise: I(Z;X) when Z = g(X) + noise.

    The noise's entropy is known, and measured all the same, on the draw that is in Z: what is wrong
    with the estimator in so many dimensions is wrong with both, and without any signal the
    difference is zero to the digit.
    """
    norm: Norm = "linf" if metric == "linf" else "l2"
    noisy, noise = (knn(block, k, metric=norm, labels=groups, backend=backend) for block in blocks)
    difference = kl_terms(blocks[0], k, groups, norm, noisy)
    return difference - kl_terms(blocks[1], k, groups, norm, noise), noisy.backend


ESTIMATORS_INSIDE = {"channel": channel_terms, **ESTIMATORS}


def _terms(blocks: Blocks, classes: Tensor, options: Options) -> tuple[Tensor, str]:
    """(N,) terms inside each class; NaN in a class of at most k members."""
    kept = torch.bincount(classes)[classes] > options.k
    out = torch.full_like(blocks[0][:, 0], torch.nan)
    part = [block[kept] for block in blocks]
    inside = torch.unique(classes[kept], return_inverse=True)[1]
    out[kept], engine = ESTIMATORS_INSIDE[options.method](
        part, options.k, inside, options.metric, options.backend
    )
    return out, engine


def measure(aligned: Aligned, noise: Tensor, sigma: float, options: Options) -> Estimate:
    """I(Z;X|Y) of aligned samples, without raising its warnings."""
    classes, k = aligned.classes, options.k
    blocks = _blocks(aligned, noise, sigma, options)
    counts = torch.bincount(classes)
    usable = counts > k

    def at(index: Tensor) -> float:
        part = [_inside(block[index], classes[index], options) for block in blocks]
        return float(_terms(part, classes[index], options)[0].nanmean())

    terms, engine = _terms(blocks, classes, options)
    value = float(terms.nanmean())
    kept = usable[classes]
    error = math.nan
    if options.stderr and int(kept.sum()) >= PLENTY * k * int(usable.sum()):
        error = jackknife_stderr(at, len(classes), k, max(LIMIT, 2 * PLENTY * k * len(counts)))
    details = {"sigma": sigma, "norm_max": aligned.norm_max, **aligned.explained}
    details |= _bounds(aligned, sigma)
    if options.method != "channel":
        details |= pair_signals([block[kept] for block in blocks], None, k, options.backend)
    doubts = [*aligned.doubts, *_doubts(value, error, counts, options, details)]
    dims = (aligned.code.shape[1], aligned.inputs.shape[1])
    method = f"superfluous-{options.method}"
    return Estimate(value, error, int(kept.sum()), k, method, dims, engine, tuple(doubts), details)


def _blocks(aligned: Aligned, noise: Tensor, sigma: float, options: Options) -> Blocks:
    scale = aligned.norm_max * sigma
    if options.method == "channel":
        return (aligned.code / scale + noise, noise)
    noisy = aligned.code + scale * noise
    return (_inside(noisy, aligned.classes, options), aligned.inputs)


def _inside(rows: Tensor, classes: Tensor, options: Options) -> Tensor:
    """The columns transformed inside each class; again for a subset of rows that were."""
    if options.method == "channel":
        return rows
    return by_class(lambda part: transform(part, options.preprocess), rows, classes)


def _bounds(aligned: Aligned, sigma: float) -> dict[str, float]:
    pair = (aligned.feats, aligned.classes)
    return {
        "logdet_bound": float(superfluous_information_bound(*pair, sigma=sigma)),
        "trace_bound": float(superfluous_information_bound(*pair, sigma=sigma, form="trace")),
    }


def _doubts(
    value: float, error: float, counts: Tensor, options: Options, details: Mapping[str, float]
) -> list[str]:
    usable = counts[counts > options.k]
    typical = int(usable.to(torch.float64).mean())
    texts = []
    if options.method != "channel":
        texts += caveats.ceiling(value, typical, options.k)
        texts += caveats.missed(value, error, details["gaussian"])
    texts += caveats.not_finite(value)
    texts += caveats.no_stderr(error, typical, options.k) if options.stderr else []
    if len(usable) < len(counts):
        texts.append(
            f"{len(counts) - len(usable)} classes with at most k = {options.k} members were left "
            "out."
        )
    slack = caveats.BIAS + (0.0 if math.isnan(error) else 3 * error)
    if value > details["logdet_bound"] + slack:
        texts.append(
            f"The estimate {value:.2f} exceeds the log-det bound {details['logdet_bound']:.2f}, "
            "which the true value cannot."
        )
    return texts


def check_options(classes: Tensor, options: Options, dim: int | None) -> None:
    """Check what does not depend on the features.

    Raises:
        ValueError, TypeError: an unknown option; `k` or `dim` out of range; no class above k.
    """
    check_choice("method", options.method, tuple(ESTIMATORS_INSIDE))
    check_choice("metric", options.metric, ("l2max", "linf"))
    check_k(options.k, len(classes))
    largest = int(torch.bincount(classes).max())
    if largest <= options.k:
        raise ValueError(
            f"Expected a class with more than k = {options.k} members but the largest has "
            f"{largest}. Pass more samples or a smaller k."
        )
    if dim is not None and as_integer("dim", dim) < 1:
        raise ValueError(f"Expected argument `dim` to be at least 1 or None but got {dim}.")


def draw(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gaussian noise of the shape of a code, from a private generator unless given one."""
    if generator is None:
        generator = private_generator(like.device)
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
