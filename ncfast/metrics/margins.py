"""Margins between pairs of classes, and their histograms (figure 5 of arXiv 2509.20829)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast import _validate
from ncfast._arrays import Array, as_integer, as_tensor
from ncfast.metrics.arguments import as_classifier
from ncfast.ops.grouping import Labels, labels_of


@torch.no_grad()
def class_margins(
    feats: Array, weight: Array, bias: Array | None = None, *, pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """Signed distance of every sample from the decision boundary of each pair of classes.

    (<w_a - w_b, g> + b_a - b_b) / norm(w_a - w_b) for pair (a, b): positive on the side of a.

    Args:
        feats: (N, D) features in floats of 16 to 64 bits.
        weight: (K, D) classifier rows.
        bias: (K,) its bias, zero when None.
        pairs: R pairs of class indices, such as [(0, 1), (4, 5)].

    Returns:
        (N, R) float64; NaN or infinite where w_a = w_b. Detached from the graph.

    Raises:
        ValueError: no pair, an index outside 0..K-1, or shapes that do not fit.
        TypeError: an argument is not an array of numbers, or has a dtype that cannot be used;
            `pairs` is no list of pairs of ints.

    Example:
        >>> import torch, ncfast
        >>> feats, weight = torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0, 0], [0, 0]])
        >>> ncfast.class_margins(feats, weight, pairs=[(0, 1)]).flatten().tolist()
        [3.0, 0.0]
    """
    feats = _validate.check_features(feats)
    rows, bias = as_classifier(weight, bias, None, feats.shape[1], feats.device)
    pairs = _as_pairs(pairs, len(rows))
    first, second = (
        torch.tensor([pair[side] for pair in pairs], device=rows.device) for side in (0, 1)
    )
    normal = rows.index_select(0, first) - rows.index_select(0, second)
    offset = normal.new_zeros(len(pairs))
    if bias is not None:
        offset = bias.index_select(0, first) - bias.index_select(0, second)
    scores = torch.addmm(offset, feats.to(torch.float64), normal.T)
    return scores / torch.linalg.vector_norm(normal, dim=1)


@torch.no_grad()
def margin_histograms(
    margins: Array,
    labels: Labels,
    *,
    pairs: Sequence[tuple[int, int]],
    bins: int = 50,
    low: float = -10.0,
    high: float = 10.0,
) -> Tensor:
    """Histograms of the margins of both classes of each pair.

    Args:
        margins: (N, R) of `class_margins`.
        labels: (N,) integer class indices, or their `plan`.
        pairs: the R pairs the margins were computed for.
        bins: number B of equal bins from ``low`` to ``high``; values outside, and NaN, fall into
            no bin.
        low: left edge of the first bin.
        high: right edge of the last bin, inclusive.

    Returns:
        (R, 2, B) int64 counts: of samples of class a, and of class b, for pair (a, b).
        Detached from the graph.

    Raises:
        ValueError: shapes that do not fit, no bin, an empty range, or a device without float64.
        TypeError: an argument is not an array of numbers, or has a dtype that cannot be used;
            `pairs` is no list of pairs of ints.

    Example:
        >>> import torch, ncfast
        >>> margins, labels = torch.tensor([[0.5], [1.5], [-1.0]]), torch.tensor([3, 3, 7])
        >>> ncfast.margin_histograms(
        ...     margins, labels, pairs=[(3, 7)], bins=2, low=-2, high=2
        ... ).tolist()
        [[[0, 2], [1, 0]]]
    """
    margins = as_tensor("margins", margins)
    labels, bins = _validate.check_labels(labels_of(labels)), as_integer("bins", bins)
    for name, given in (("margins", margins), ("labels", labels)):
        _validate.check_device(name, given.device, f"Move it to the CPU: {name}.cpu().")
    pairs = _as_pairs(pairs, None)
    if margins.shape != (len(labels), len(pairs)):
        raise ValueError(
            f"Expected argument `margins` of shape (N, R) = {(len(labels), len(pairs))} but got "
            f"{tuple(margins.shape)}."
        )
    low, high = _validate.check_number("low", low), _validate.check_number("high", high)
    if not 1 <= bins < 1 << 31:
        raise ValueError(f"Expected argument `bins` in 1..2^31 - 1 but got {bins}.")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"Expected arguments `low` < `high`, finite, but got {low} and {high}.")
    width = (high - low) / bins
    place = ((margins - low) / width).floor().clamp(max=bins - 1)
    inside = (margins >= low) & (margins <= high)
    place = torch.where(inside, place, 0).to(torch.int64)
    wanted = torch.tensor(pairs, device=labels.device)  # (R, 2)
    member = labels.to(torch.int64).unsqueeze(1).unsqueeze(2) == wanted
    chosen = (member & inside.unsqueeze(2)).to(torch.int64).permute(1, 2, 0)  # (R, 2, N)
    counts = torch.zeros((len(pairs), 2, bins), dtype=torch.int64, device=margins.device)
    return counts.scatter_add_(2, place.T.unsqueeze(1).expand(-1, 2, -1), chosen)


def _as_pairs(pairs: Sequence[tuple[int, int]], number: int | None) -> list[tuple[int, int]]:
    """The pairs as ints, once they are checked."""
    try:
        found = [(as_integer("pairs", a), as_integer("pairs", b)) for a, b in pairs]
    except (TypeError, ValueError, RuntimeError):  # no sequence, or not of pairs of integers
        raise TypeError(
            "Expected argument `pairs` to be a list of pairs of ints, such as [(0, 1), (4, 5)], "
            f"but got {type(pairs).__name__}: {pairs!r:.60}."
        ) from None
    if not found:
        raise ValueError("Expected argument `pairs` to hold at least one pair but got none.")
    for pair in found:
        most = number if number is not None else _validate.MOST_CLASSES
        if min(pair) < 0 or max(pair) >= most:
            raise ValueError(
                f"Expected argument `pairs` to hold pairs of classes in 0..K-1 but got {pair}."
            )
    return found
