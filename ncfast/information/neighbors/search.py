"""The public searches: each checks its arguments, chooses an engine and calls it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncfast.information.duplicates import row_codes
from ncfast.information.neighbors import _check, dispatch
from ncfast.information.neighbors._types import JointMetric, JointNeighbors, Metric, Neighbors

_SAMPLED = 8192  # number of rows that are tested for copies
_TOLD_APART = 16  # columns that usually tell rows apart


@torch.no_grad()
def knn(
    x: Tensor,
    k: int,
    *,
    metric: Metric = "l2",
    labels: Tensor | None = None,
    backend: str = "auto",
) -> Neighbors:
    """The k nearest other rows of every row, exact in float64 arithmetic on the input.

    Squared differences are summed in float64. Norms and products are not used, because they lose
    all digits on collapsed features. A row is not its own neighbour, but an exact duplicate of it
    is one, at distance zero. Rows at the same distance are in order of row number.

    Args:
        x: (N, d) rows; float16, bfloat16, float32 or float64, any strides, any device.
        k: number of neighbours, 1 <= k < N.
        metric: "l2" (Euclidean) or "linf" (maximum norm).
        labels: (N,) integers; only rows of the same class are neighbours. Rows of a class of n <= k
            members have n - 1 neighbours, then infinite distances and index -1.
        backend: "auto" or a name of `neighbor_backends`.

    Returns:
        `Neighbors`: ``distances`` (N, k) float64 ascending, ``indices`` (N, k) int64, ``backend``,
        and ``certified``, the share of rows that needed no second search.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, NaN or infinite values, k outside 1..N-1, or an unknown name.

    Example:
        >>> import torch
        >>> from ncfast.information.neighbors import knn
        >>> found = knn(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), k=2)
        >>> found.indices.tolist()
        [[1, 2], [0, 2], [1, 0], [2, 1]]
        >>> found.distances[3].tolist()
        [4.0, 6.0]
    """
    _check.points(x)
    _check.one_of(metric, "metric", ("l2", "linf"))
    labels = _check.same_class(labels, x)
    k = _check.neighbours_wanted(k, x, labels)
    backend = _for_repeats(backend, (x,), labels, "knn", metric)
    name, engine = dispatch.engine(
        backend, _group(x, labels), x.shape[1], x.device, "knn", metric, k
    )
    distances, indices, certified = engine.knn(x.resolve_neg(), k, metric, labels)
    return Neighbors(distances, indices, name, certified)


@torch.no_grad()
def joint_radii_and_counts(
    blocks: Sequence[Tensor],
    k: int,
    *,
    metric: JointMetric = "l2max",
    rectangle: bool = False,
    labels: Tensor | None = None,
    backend: str = "auto",
) -> JointNeighbors:
    """Distance to the k-th joint neighbour, and the number of nearer rows within each block.

    The estimators of Kraskov, Stoegbauer & Grassberger (2004) use these numbers.

    Args:
        blocks: (N, d_b) rows each; row i of every block is sample i.
        k: number of neighbours, 1 <= k < N.
        metric: the joint distance is the maximum over blocks of the Euclidean ("l2max") or the
            maximum norm ("linf") within the block.
        rectangle: count rows at most as far as the block's own extent (KSG-2) instead of rows
            strictly nearer than the joint radius.
        labels: (N,) integers; only rows of the same class count. Rows of a class of at most k
            members have infinite radii.
        backend: "auto" or a name of `neighbor_backends`.

    Returns:
        `JointNeighbors`: ``radii`` (N,), ``counts`` and ``extents``, a tuple with one (N,) tensor
        per block, ``ties`` (N,), ``backend``.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, different lengths, NaN or infinite values, or k outside 1..N-1.

    Example:
        >>> import torch
        >>> from ncfast.information.neighbors import joint_radii_and_counts
        >>> x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [5.0], [1.0]])
        >>> found = joint_radii_and_counts([x, y], k=1)
        >>> found.radii.tolist(), [count.tolist() for count in found.counts]
        ([3.0, 4.0, 3.0], [[1, 2, 1], [1, 0, 1]])
    """
    _check.blocks(blocks)
    _check.one_of(metric, "metric", ("l2max", "linf"))
    first = blocks[0]
    labels = _check.same_class(labels, first, "blocks[0]")
    k = _check.neighbours_wanted(k, first, labels)
    columns = sum(block.shape[1] for block in blocks)
    backend = _for_repeats(backend, blocks, labels, "joint", metric)
    name, engine = dispatch.engine(
        backend, _group(first, labels), columns, first.device, "joint", metric
    )
    within: Metric = "linf" if metric == "linf" else "l2"
    blocks = [block.resolve_neg() for block in blocks]
    return JointNeighbors(*engine.joint(blocks, k, within, rectangle, labels), name)


@torch.no_grad()
def range_count(
    x: Tensor,
    radii: Tensor,
    *,
    metric: Metric = "l2",
    strict: bool = True,
    labels: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The number of other rows within a given distance of each row.

    Args:
        x: (N, d) rows; float16, bfloat16, float32 or float64, any strides, any device.
        radii: (N,) distances, floating-point, possibly infinite.
        metric: "l2" (Euclidean) or "linf" (maximum norm).
        strict: True counts rows nearer than the radius, False rows at most as far.
        labels: (N,) integers; only rows of the same class count.
        backend: "auto" or a name of `neighbor_backends`.

    Returns:
        (N,) int64 on the device of ``x``.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, different lengths, NaN, or an unknown name.

    Example:
        >>> import torch
        >>> from ncfast.information.neighbors import range_count
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> range_count(x, torch.tensor([1.0, 2.5, 3.0])).tolist()
        [0, 2, 1]
    """
    _check.points(x)
    reach = _check.radii(radii, x)
    _check.one_of(metric, "metric", ("l2", "linf"))
    labels = _check.same_class(labels, x)
    backend = _for_repeats(backend, (x,), labels, "count", metric)
    _, engine = dispatch.engine(backend, _group(x, labels), x.shape[1], x.device, "count", metric)
    return engine.count(x.resolve_neg(), reach, metric, strict, labels)


def _for_repeats(
    backend: str, blocks: Sequence[Tensor], labels: Tensor | None, task: str, metric: str
) -> str:
    """The backend, with "auto" replaced by "tree" if many rows repeat.

    Direct differences reject distant rows early but cannot reject equal rows. The tree skips them.
    """
    first, columns = blocks[0], sum(block.shape[1] for block in blocks)
    if backend != "auto":
        return backend
    name, _ = dispatch.neighbor_backend(
        _group(first, labels), columns, first.device, task=task, metric=metric
    )
    if name != "direct":
        return backend
    step = max(1, len(first) // _SAMPLED)

    def repeat(every: int) -> bool:
        seen = torch.cat([block[::step, ::every].to(torch.float64) for block in blocks], 1)
        return 3 * len(torch.unique(row_codes(seen))) <= 2 * len(seen)

    # rows that differ in some columns differ: reading all columns takes longer than a small search
    every = max(1, columns // _TOLD_APART)
    return "tree" if repeat(every) and (every == 1 or repeat(1)) else backend


def _group(x: Tensor, labels: Tensor | None) -> int:
    """Approximate number of rows in a class, or of all rows without labels."""
    if labels is None:
        return len(x)
    low, high = torch.aminmax(labels)
    return len(x) // max(1, min(len(x), int(high - low) + 1))
