"""Runs `ncfast eval`: its options, the ranks of torchrun, the table and the JSON file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.distributed as dist
import tyro

from ncfast._optional import Show
from ncfast.evaluation.on_disk import evaluate_files
from ncfast.evaluation.result import Evaluation


@dataclass(frozen=True)
class EvalConfig:
    """Metrics of features and labels in .npy, .npz, .pt, .safetensors or .parquet files.

    A path may be a folder or a quoted glob, whose files follow each other; FILE:NAME is one array
    of a file that holds several. Under torchrun the rows are split over the ranks.
    """

    feats: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FEATS")]
    """Features (N, D), or (N, T, D) of tokens."""
    labels: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LABELS")]
    """Integer class indices (N,), or (N, T); may be the same file."""
    weight: str | None = None
    """Rows (K, D) of the classifier, for NC3, NC4, the bounds and the accuracy."""
    bias: str | None = None
    """Bias (K,) of the classifier; None: zero."""
    ood: str | None = None
    """Features (M, D) from outside the distribution, for NC5."""
    metrics: tuple[str, ...] = ("all",)
    """Ids, families, tiers, default, or all: every id whose inputs are there."""
    num_classes: int | None = None
    """K; None: the rows of --weight, or the largest label plus one."""
    out: Path | None = None
    """JSON file for the metrics with conventions and definitions."""
    ignore_index: int = -100
    """Rows with this label are left out."""
    nonfinite: Literal["error", "skip"] = "error"
    """If rows hold NaN or infinities: error ends with their number, skip leaves them out."""
    memory_limit: str = "2GiB"
    """Memory for the D x D scatter matrix, without which some metrics are left out."""
    device: str = "cpu"
    """Where the metrics are computed: cpu, cuda, cuda:1, ..."""


def run(config: EvalConfig) -> None:
    """Measure, print the table and write the JSON file; under torchrun the first rank does that.

    Raises:
        ValueError, OSError: see `evaluate_files`.
    """
    if config.out is not None and not config.out.parent.is_dir():
        raise FileNotFoundError(f"{config.out}: the folder does not exist. Make it first.")
    if config.out is not None and config.out.is_dir():
        raise IsADirectoryError(f"{config.out}: expected a file to write but it is a folder.")
    if torch.device(config.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("Expected argument `device` to be there but torch finds no CUDA device.")
    with _processes(config.device) as (rank, group):
        found = evaluate_files(
            config.feats,
            config.labels,
            weight=config.weight,
            bias=config.bias,
            ood=config.ood,
            metrics=config.metrics[0] if len(config.metrics) == 1 else config.metrics,
            num_classes=config.num_classes,
            ignore_index=config.ignore_index,
            nonfinite=config.nonfinite,
            memory_limit=config.memory_limit,
            device=config.device,
            group=group,
            progress=_bar() if rank == 0 else None,
        )
    if rank == 0:
        _show(found, config.out)


def _show(found: Evaluation, out: Path | None) -> None:
    print(found)
    if out is not None:
        found.save(out)
        print(f"\nWritten: {out}")


@contextlib.contextmanager
def _processes(device: str) -> Iterator[tuple[int, str | None]]:
    """This rank, and the group where torchrun has started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0, None
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu and ":" not in device:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank(), "auto"
    finally:
        dist.destroy_process_group()


def _bar() -> Show | None:
    """A bar that goes away when it is full, on a terminal."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return lambda blocks: tqdm(blocks, unit="block", leave=False)
