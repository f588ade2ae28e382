"""FAISS for a GPU, played by FAISS for the CPU on a pretended CUDA device."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from pretended_cuda import CUDA, OnCuda, pretended
from torch import Tensor

from ncfast.information.neighbors import faiss_flat

Found = tuple[Tensor, Tensor]  # squared distances and indices, (Q, m) each


class Faiss:
    """Takes the place of the module: `knn_gpu` checks its arguments as the real one does.

    Attributes:
        moved: number of entries of each copy to the host.
        tiles: number of queries of each search.
        settings: what the scratch memory was told.
        spoil: changes what a search finds; it gets queries, rows, scores, and indices.
    """

    def __init__(self, moved: list[int]) -> None:
        self.moved, self.tiles, self.settings = moved, [], []
        self.spoil: Callable[[Tensor, Tensor, Tensor, Tensor], Found] | None = None
        self.device: torch.device | None = None
        self.real = faiss_flat.library()

    def StandardGpuResources(self):
        self.settings.append("made")
        return self

    def setTempMemory(self, size):
        self.settings.append(f"temporary {size}")

    def setPinnedMemory(self, size):
        self.settings.append(f"pinned {size}")

    def get_num_gpus(self):
        return 1

    @contextlib.contextmanager
    def on_device_of(self, rows):
        self.device, before = rows.device, self.device
        yield
        self.device = before

    def knn_gpu(self, resources, xq, xb, k, D, I):  # noqa: E741
        from faiss.contrib.torch_utils import torch_replacement_knn_gpu as real

        inspect.signature(real).bind(resources, xq, xb, k, D=D, I=I)
        assert resources is self
        assert self.device == CUDA
        for each in (xq, xb, D, I):
            assert each.device == CUDA
            assert each.is_contiguous()
        assert xq.dtype == xb.dtype == D.dtype == torch.float32
        assert I.dtype == torch.int64
        assert D.shape == I.shape == (len(xq), k)
        assert k <= 2048
        found = self.real.knn(xq.below, xb.below, k)
        if self.spoil is not None:
            found = self.spoil(xq.below, xb.below, *found)
        D.below.copy_(found[0])
        I.below.copy_(found[1])
        self.tiles.append(len(xq))


@contextlib.contextmanager
def playing(patch: pytest.MonkeyPatch) -> Iterator[Faiss]:
    """Replace FAISS by `Faiss`, and let functions take the pretended device."""
    with pretended() as moved:
        faiss = Faiss(moved)
        patch.setattr(faiss_flat, "library", lambda: faiss)
        patch.setattr(torch.cuda, "device_of", faiss.on_device_of)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        empty = torch.empty

        def poisoned(*size, **options):
            made = empty(*size, **options)
            return made.fill_(float("nan") if made.is_floating_point() else -7)

        patch.setattr(torch, "empty", poisoned)
        faiss_flat._resources.cache_clear()
        yield faiss
        faiss_flat._resources.cache_clear()


def cuda(x: Tensor | None) -> Tensor | None:
    """The tensor on the pretended device."""
    return None if x is None else OnCuda(x)
