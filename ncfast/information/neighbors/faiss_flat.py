"""Neighbours by brute force in FAISS, on the CPU or a CUDA device, with a certificate.

FAISS is imported by the first search, with `faiss.contrib.torch_utils`: its functions then take
tensors too, for the whole process.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ncfast.information.neighbors import certificate, gemm
from ncfast.information.neighbors._types import Metric
from ncfast.information.neighbors.certificate import Candidates

INSTALLED = importlib.util.find_spec("faiss") is not None  # does not import it
MOST = 2048 - 1 - certificate.EXTRA  # FAISS ends the process where it is asked for more on a GPU
# for each CUDA of torch: the package, and the compute capabilities it was built for
_WHEELS = {
    "11": ("faiss-gpu-cu11", "7.0 to 8.9"),
    "12": ("ncfast[gpu-knn]", "7.0 to 9.0"),
    "13": ("ncfast[gpu-knn-cuda13]", "8.0 to 10.0"),
}

_SCORES = 1 << 24  # number of float32 scores in GPU memory at a time; FAISS holds two such tiles
_WIDEST = 1 << 18  # columns of a tile: FAISS cuts longer ones itself
_SCRATCH = 160 << 20  # bytes that FAISS keeps for its tiles and norms
_one_at_a_time = threading.Lock()  # the scratch memory serves one search at a time


def library() -> Any:
    """FAISS, with functions that take tensors.

    Raises:
        ImportError: it is not installed, or a library of CUDA that it needs is missing.
    """
    import faiss
    import faiss.contrib.torch_utils

    return faiss


def why_not_on_gpu(k: int = 1) -> str | None:
    """The reason why FAISS cannot find k neighbours on a CUDA device; None if it can.

    It imports FAISS.
    """
    if k > MOST:
        return f"FAISS finds at most {MOST} neighbours on a GPU"
    if not INSTALLED:
        return f"FAISS is not installed: {_wheel()}"
    try:
        faiss = library()
    except ImportError as error:
        return f"FAISS does not load ({error}): {_wheel()}"
    if not hasattr(faiss, "StandardGpuResources"):
        return f"this FAISS is for the CPU: uninstall faiss-cpu, then {_wheel()}"
    return None if faiss.get_num_gpus() > 0 else "FAISS finds no CUDA device"


def _wheel() -> str:
    cuda = torch.version.cuda or "no CUDA"
    if cuda.split(".")[0] not in _WHEELS:
        return f"there is no wheel for torch with {cuda}; see docs/neighbors.md"
    package, capabilities = _WHEELS[cuda.split(".")[0]]
    return f"pip install '{package}' for CUDA {cuda} (compute capability {capabilities})"


def search(x: Tensor, number: int, metric: Metric) -> Candidates:
    """The ``number`` nearest rows for each row, by squared distances in float32."""
    assert metric == "l2", metric
    near = certificate.rounded(x)
    try:
        scores, indices = (on_gpu if x.is_cuda else _on_cpu)(near.rows, number)
    except RuntimeError as error:  # such as memory, which FAISS does not take from torch
        warnings.warn(
            f"FAISS failed ({error}). Matrix products replace it: the result is the same.",
            RuntimeWarning,
            stacklevel=7,
        )
        return gemm.search(x, number, metric)
    return certificate.candidates(indices, scores, near)


def _on_cpu(rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    faiss = library()
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss.knn(rows, rows, number)


def on_gpu(rows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Scores and indices of the nearest rows (N, number), on the stream of the caller."""
    scores = torch.empty(len(rows), number, dtype=torch.float32, device=rows.device)
    indices = torch.empty(len(rows), number, dtype=torch.int64, device=rows.device)
    tile = max(1, _SCORES // min(len(rows), _WIDEST))
    tiles = zip(*(each.split(tile) for each in (rows, scores, indices)), strict=True)
    with _one_at_a_time, torch.cuda.device_of(rows):
        for queries, values, ids in tiles:
            library().knn_gpu(_resources(), queries, rows, number, D=values, I=ids)
    return scores, indices


@cache
def _resources() -> Any:
    """Scratch memory, streams and handles of FAISS, for all devices. It orders streams itself."""
    resources = library().StandardGpuResources()
    resources.setTempMemory(_SCRATCH)
    resources.setPinnedMemory(0)  # 256 MB otherwise, for copies that are not made here
    return resources


def knn(x: Tensor, k: int, metric: Metric, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Distances and indices of the k nearest rows (of the same class); see `Neighbors`."""
    return certificate.knn(search, x, k, metric, labels)
