"""The checks of one path of an operation; the first that fails raises `Wrong`."""

from __future__ import annotations

import torch

from ncfast.ops import _verdicts
from ncfast.self_check import concurrency
from ncfast.self_check.forms import Form, Shapes, Wrong
from ncfast.self_check.samples import Sample, accuracy, collapsed, edges, layouts

_SMALL = 32  # rows of the samples with which the layouts and edges are checked, where time counts
_ROWS = 700
FAR_BYTES = 13 << 30  # free memory that the check of far offsets needs


def run(form: Form, dtype: torch.dtype, device: torch.device, *, far: bool = False) -> str:
    """Make all checks of a path.

    On a CPU, for Triton's interpreter, they are those that need no CUDA device, with few rows.

    Args:
        form: the path.
        dtype: of the features.
        device: where the kernels run.
        far: whether much memory may be used for offsets beyond 2^31.

    Returns:
        What could not be checked; empty if everything was.

    Raises:
        Wrong: a result is wrong.
        Exception: whatever the kernels raise.
    """
    small = device.type != "cuda"
    rows, dim = (_SMALL, 20) if small else (_ROWS, 96)
    shapes = _shrunk(form) if small else form.shapes
    samples = accuracy(dtype, shapes) + edges(dtype, rows, dim) + layouts(dtype, rows)
    for sample in samples:
        if not small:
            _poison(device)
        form.compare(form.found(sample, device), sample)
    usual = collapsed(0.5, rows, dim, 4, dtype)
    _invalid(form, usual, device)
    _not_finite(form, usual, device)
    if small:
        return ""
    same = [collapsed(0.1, *form.shapes[0], dtype, seed) for seed in range(4)]
    concurrency.streams(form, same[0], device)
    concurrency.graphs(form, same, device)
    return _far_offsets(form, device, far=far) if dtype == torch.bfloat16 else ""


def _shrunk(form: Form) -> Shapes:
    """Few rows and classes; rows wider than a tile for one form alone, which has no other path."""
    few = [(min(n, _SMALL), d if d > 2048 else min(d, 70), min(k, 7)) for n, d, k in form.shapes]
    return tuple(shape for shape in few if form.far or shape[1] <= 2048)


def _invalid(form: Form, sample: Sample, device: torch.device) -> None:
    """A label out of range makes results NaN, and no memory is read that is not the features'."""
    for label in (-1, sample.num_classes) if form.invalid else ():
        labels = sample.labels.clone()
        found = form.found(sample, device, labels.index_fill_(0, torch.tensor([1]), label))
        for result in form.invalid:
            if not bool(found[result].isnan().all()):
                raise Wrong(f"result {result} is not NaN for a label {label}")


def _not_finite(form: Form, sample: Sample, device: torch.device) -> None:
    """What a NaN or an infinite feature makes not finite in the reference is not finite."""
    for value in (torch.nan, torch.inf):
        feats = sample.feats.clone()
        feats[1, 0] = value
        changed = sample._replace(feats=feats)
        for gap in form.gaps(form.found(changed, device), changed):
            if bool((gap.found.isfinite() & ~gap.expected.isfinite()).any()):
                raise Wrong(f"{gap.name} hides a feature that is {value}")


def _poison(device: torch.device) -> None:
    """Leave NaN in memory that the next allocations get."""
    for size in (1 << 8, 1 << 14, 1 << 20):
        torch.full((size,), torch.nan, dtype=torch.float64, device=device)


def _far_offsets(form: Form, device: torch.device, *, far: bool) -> str:
    """Features of more than 2^31 entries, in the last two rows of which all is different from 0."""
    if not form.far:
        return ""
    if not far or torch.cuda.mem_get_info(device)[0] < FAR_BYTES:
        return (
            "but for offsets beyond 2^31, which take 13 GiB of free memory and "
            f"`{_verdicts.COMMAND}`"
        )
    dim = 4096
    rows = 2**31 // dim + 3
    feats = torch.zeros((rows, dim), dtype=torch.bfloat16, device=device)
    feats[-1], feats[-2] = 2.0, 4.0
    labels = torch.zeros(rows, dtype=torch.int64, device=device)
    labels[-2:] = 1
    found = form.kernels(feats, labels, 2)
    if found.within_ss.tolist() != [0.0, 2.0 * dim] or not bool(found.means[1].eq(3.0).all()):
        raise Wrong("features of more than 2^31 entries")
    return ""
