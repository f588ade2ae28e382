"""Class moments of a file larger than memory: time, memory over time, and error.

    python -m ncfast.benchmarks.streaming FOLDER --gib 28 --out streaming.json
    python -m ncfast.benchmarks.streaming FOLDER --gib 28 --only make     # in two parts
    python -m ncfast.benchmarks.streaming FOLDER --only measure --out ...

`make` writes features and labels chunk by chunk, and the reference: float64 sums of deviations from
the means that the features were drawn around. `measure` drops the file from the page cache and
reads it once with a plain sum. It drops the file again and reads it through ``class_moments`` and
``merge``, while a thread samples the memory of the process. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks import environment, memory, results_file

DIM, CLASSES, SPREAD = 512, 100, 0.1
CHUNK_ROWS = 1 << 15  # 64 MiB of float32 at 512 columns
SUBSET_CHUNKS = 16


class Sampler:
    """Samples the memory of the process in a thread, from entering to leaving the context."""

    def __init__(self, every: float = 0.25) -> None:
        self.every, self.rows = every, list[tuple[float, int, int]]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _sample(self) -> None:
        now = memory.now()
        seconds = round(time.perf_counter() - self._start, 2)
        self.rows.append((seconds, now["RssAnon"], now["RssFile"]))

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            self._sample()
        self._sample()

    def __enter__(self) -> Sampler:
        self._start = time.perf_counter()
        self._sample()  # the memory on entering
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def make(folder: Path, size: int, *, dim: int = DIM, classes: int = CLASSES) -> dict[str, object]:
    """Write files of about ``size`` bytes and their float64 reference."""
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, round(size / (4 * dim * CHUNK_ROWS)))
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    around = centres.double()
    first = torch.zeros(classes, dim, dtype=torch.float64)
    second = torch.zeros((), dtype=torch.float64)
    counts = torch.zeros(classes, dtype=torch.int64)
    with (folder / "feats.bin").open("wb") as feats, (folder / "labels.bin").open("wb") as labels:
        for chunk in range(count):
            draw = torch.Generator().manual_seed(1 + chunk)
            y = torch.randint(classes, (CHUNK_ROWS,), generator=draw)
            x = centres[y] + SPREAD * torch.randn(CHUNK_ROWS, dim, generator=draw)
            x.numpy().tofile(feats)
            y.numpy().tofile(labels)
            gap = x.double() - around[y]
            first.index_add_(0, y, gap)
            second += gap.square().sum()
            counts += torch.bincount(y, minlength=classes)
    shift = first / counts.clamp(min=1)[:, None]
    within = second - (counts * shift.square().sum(1)).sum()
    torch.save({"counts": counts, "means": around + shift, "within": within}, folder / "truth.pt")
    about: dict[str, object] = {"rows": count * CHUNK_ROWS, "dim": dim, "classes": classes}
    (folder / "about.json").write_text(json.dumps(about) + "\n")
    return about


def chunks(folder: Path, about: dict[str, int], limit: int | None = None) -> Iterator[list[Tensor]]:
    """Features and labels chunk by chunk; each chunk is mapped only while in use."""
    size = 4 * about["dim"] * CHUNK_ROWS
    with (folder / "feats.bin").open("rb") as file:
        for chunk in range(about["rows"] // CHUNK_ROWS)[:limit]:
            # The disk reads the next chunk while this one is processed.
            os.posix_fadvise(file.fileno(), (chunk + 1) * size, size, os.POSIX_FADV_WILLNEED)
            # Mode "c" gives writable memory, as torch requires, and never changes the file.
            yield [
                torch.from_numpy(np.memmap(folder / name, kind, "c", chunk * width, shape))
                for name, kind, width, shape in (
                    ("feats.bin", np.float32, size, (CHUNK_ROWS, about["dim"])),
                    ("labels.bin", np.int64, 8 * CHUNK_ROWS, (CHUNK_ROWS,)),
                )
            ]


def streamed(folder: Path, about: dict[str, int], limit: int | None = None) -> ncfast.ClassMoments:
    """The moments of the file, or of its first chunks, merged chunk by chunk."""
    total = ncfast.ClassMoments.empty(about["classes"], about["dim"])
    for feats, labels in chunks(folder, about, limit):
        total = total.merge(ncfast.class_moments(feats, labels, num_classes=about["classes"]))
    return total


def plain_read(folder: Path, about: dict[str, int]) -> Tensor:
    """A plain read of the file: the sum of all features."""
    return sum((feats.sum() for feats, _ in chunks(folder, about)), torch.zeros(()))


def cold(folder: Path) -> None:
    """Drop the files from the page cache."""
    for name in ("feats.bin", "labels.bin"):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def subset_difference(folder: Path, about: dict[str, int]) -> float:
    """Largest relative difference between the first chunks, streamed, and the same rows at once."""
    parts = [[t.clone() for t in part] for part in chunks(folder, about, SUBSET_CHUNKS)]
    feats, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    whole = ncfast.class_moments(feats, labels, num_classes=about["classes"]).state_dict()
    part = streamed(folder, about, SUBSET_CHUNKS).state_dict()
    if not torch.equal(part.pop("counts"), whole["counts"]):
        raise SystemExit("streamed counts differ from those of the whole")
    return max(distance(value, whole[name]) for name, value in part.items())


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative distance of two tensors in the Euclidean norm."""
    return float((found - exact).norm() / exact.norm())


def errors(total: ncfast.ClassMoments, folder: Path) -> dict[str, float]:
    """Relative errors against the reference that `make` stored."""
    truth = torch.load(folder / "truth.pt")
    if not torch.equal(total.counts, truth["counts"]):
        raise SystemExit("streamed counts differ from the truth")
    return {
        "within_ss": distance(total.within_ss.sum(), truth["within"]),
        "means": distance(total.means, truth["means"]),
    }


def timed(folder: Path, call: Callable[[], object]) -> tuple[object, float, Sampler]:
    """The result of a call on a cold cache, its seconds, and the memory over time."""
    cold(folder)
    with Sampler() as sampler:
        start = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - start
    return found, seconds, sampler


def measure(folder: Path) -> dict[str, object]:
    """Time a plain read of the file and its moments, and compute the errors."""
    about = json.loads((folder / "about.json").read_text())
    streamed(folder, about, 1)  # warm-up: the first call loads code
    _, read, _ = timed(folder, lambda: plain_read(folder, about))
    total, seconds, sampler = timed(folder, lambda: streamed(folder, about))
    assert isinstance(total, ncfast.ClassMoments)
    error, apart = errors(total, folder), subset_difference(folder, about)
    anonymous = [row[1] for row in sampler.rows]
    size = (folder / "feats.bin").stat().st_size
    return {
        **about,
        "file_bytes": size,
        "memory_bytes": memory.physical(),
        "chunk_bytes": 4 * about["dim"] * CHUNK_ROWS,
        "budget": 1e-6,
        "ok": max(*error.values(), apart) < 1e-6,
        "error": error,
        "subset_rows": min(SUBSET_CHUNKS * CHUNK_ROWS, about["rows"]),
        "subset_difference": apart,
        "seconds": {"read": read, "moments": seconds},
        "gb_per_s": {"read": size / read / 1e9, "moments": size / seconds / 1e9},
        "anonymous_mib": {"first": anonymous[0], "last": anonymous[-1], "peak": max(anonymous)},
        "memory_over_time": {"columns": ["s", "RssAnon MiB", "RssFile MiB"], "rows": sampler.rows},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, measure, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files are; they stay there")
    parser.add_argument("--gib", type=float, default=1.2 * memory.physical() / 2**30)
    parser.add_argument("--only", choices=["make", "measure"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    if given.only != "measure":
        print(make(given.folder, int(given.gib * 2**30)))
    if given.only == "make":
        return 0
    about = environment.describe(torch.device("cpu"), torch.get_num_threads())
    found = {"schema": 1, "environment": about, "streaming": measure(given.folder)}
    environment.finish(about)
    print({name: value for name, value in found["streaming"].items() if name != "memory_over_time"})
    if given.out:
        results_file.write(given.out, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
