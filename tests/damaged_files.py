"""The file formats that ncfast reads, each with a valid file, its reader, and its mutations.

counts = damaged_files.run("checkpoint", folder, count=1000)
"""

import gzip
import json
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mutations import Mutation, mixed, of_bytes, of_json, of_lines, of_tensors, try_all

from ncfast import Tracker
from ncfast.evaluation.formats import open_stored
from ncfast.experiments import run_dir, sweep_file
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import cifar, load
from ncfast.experiments.report.build import summarise
from ncfast.experiments.report.probes import read_probes
from ncfast.experiments.report.runs import expand_directories, read_run
from ncfast.experiments.sweep import check_resumable as check_sweep
from ncfast.experiments.sweep import sweep
from ncfast.experiments.sweep_config import SweepConfig
from ncfast.experiments.trainer import check_resumable, load_splits, train
from ncfast.experiments.training import checkpoint
from ncfast.experiments.training.program import ReplicaProgram
from ncfast.tracking.sinks import read_records
from ncfast.tracking.sinks.files import read_header

CPU = torch.device("cpu")
SMALL = {
    **{"steps": 40, "widths": (8, 8), "schedule": "every:10", "probes": "every:20"},
    **{"information": 0, "device": "cpu"},
}


@dataclass(frozen=True)
class Case:
    """A valid file.

    Attributes:
        path: the file.
        read: reads it.
        mutations: endless mutations of it, from a seed.
        same: whether what was read is right in spite of a mutation.
        pipes: False if the reader takes pipes, and waits for them.
    """

    path: Path
    read: Callable[[], object]
    mutations: Callable[[int], Iterator[Mutation]]
    same: Callable[[object], bool] = lambda found: True
    pipes: bool = True


CASES: dict[str, Callable[[Path], Case]] = {}


def run(name: str, folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Try ``count`` mutations of the format ``name``; see `mutations.try_all`.

    Args:
        name: one of `CASES`.
        folder: an empty folder.
        count: how many.
        seed: of the choice of mutations.
    """
    case = CASES[name](folder)
    return try_all(
        case.path, case.read, case.mutations(seed), count, same=case.same, pipes=case.pipes
    )


def case(function: Callable[[Path], Case]) -> Callable[[Path], Case]:
    CASES[function.__name__] = function
    return function


def text_or_bytes(path: Path, of: Callable[[bytes, int], Iterator[Mutation]]):
    content = path.read_bytes()
    return lambda seed: mixed(of(content, seed), of(content, seed + 1), of_bytes(content, seed))


def bytes_of(path: Path):
    content = path.read_bytes()
    return lambda seed: of_bytes(content, seed)


def a_run(folder: Path) -> TrainConfig:
    config = TrainConfig(out=folder / "run", **SMALL)
    train(config)
    return config


@case
def config_of_a_report(folder):
    path = a_run(folder).out / run_dir.CONFIG
    return Case(path, lambda: summarise([read_run(path.parent)]), text_or_bytes(path, of_json))


@case
def config_to_resume(folder):
    config = a_run(folder)
    path = config.out / run_dir.CONFIG

    def read():
        saved = run_dir.load_settings(config.out)
        check_resumable(replace(saved, resume=True, steps=100))
        return run_dir.fixed_settings(saved)

    expected = run_dir.fixed_settings(config)
    return Case(path, read, text_or_bytes(path, of_json), lambda found: found == expected)


@case
def metrics_of_a_report(folder):
    path = a_run(folder).out / run_dir.METRICS_FILE
    return Case(path, lambda: summarise([read_run(path.parent)]), text_or_bytes(path, of_lines))


@case
def metrics_to_resume(folder):
    path = a_run(folder).out / run_dir.METRICS_FILE
    return Case(path, lambda: run_dir.truncate_log(path, 20), text_or_bytes(path, of_lines))


@case
def probes(folder):
    out = a_run(folder).out
    path = out / run_dir.PROBES_FILE
    found = read_run(out)
    return Case(path, lambda: read_probes(found), text_or_bytes(path, of_lines))


def a_sweep(folder: Path) -> SweepConfig:
    config = SweepConfig(out=folder / "sweep", weight_decay=(0.3, 0.1), **SMALL)
    sweep(config)
    return config


@case
def sweep_of_a_report(folder):
    config = a_sweep(folder)
    path = config.out / sweep_file.SWEEP

    def read():
        found = expand_directories([config.out])
        assert {one.parent for one in found} <= {config.out, config.out.parent}
        return summarise([read_run(one) for one in found])

    return Case(path, read, text_or_bytes(path, of_json))


@case
def sweep_to_resume(folder):
    config = a_sweep(folder)
    path = config.out / sweep_file.SWEEP

    def read():
        saved = replace(sweep_file.load_settings(config.out), resume=True, steps=100)
        check_sweep(saved)
        return settings_of(saved)

    def settings_of(found):
        return {name: run_dir.fixed_settings(one) for name, one in found.replicas().items()}

    expected = settings_of(config)
    return Case(path, read, text_or_bytes(path, of_json), lambda found: found == expected)


@case
def checkpoint_to_resume(folder):
    config = a_run(folder)
    path = config.out / run_dir.CHECKPOINT
    splits = load_splits(config, CPU)
    program = ReplicaProgram([config], splits[0], CPU)

    def read():
        settings = run_dir.fixed_settings(config)
        checkpoint.check_resumable(config.out, settings, 40)
        assert checkpoint.saved_step(config.out) == 40
        step = checkpoint.restore(config.out, lambda state: program.load(0, state))
        return step, {name: value.clone() for name, value in program.state(0).items()}

    _, expected = read()

    def same(found):
        equal = (torch.equal(value, found[1][name]) for name, value in expected.items())
        return found[0] == 40 and all(equal)

    content = path.read_bytes()

    def mutations(seed):
        return mixed(of_tensors(path, seed), of_bytes(content, seed))

    return Case(path, read, mutations, same)


def a_log(folder: Path, suffix: str) -> Path:
    path = folder / f"metrics.{suffix}"
    feats, labels = torch.randn(12, 4), torch.arange(12) % 3
    with Tracker(num_classes=3, metrics="rnc1", sinks=[path]) as tracker:
        for step in range(20):
            tracker.step(feats=feats, labels=labels)
            tracker.log({"loss": float("nan") if step % 3 else step})
    return path


@case
def log_jsonl(folder):
    path = a_log(folder, "jsonl")
    return Case(path, lambda: read_both(path), text_or_bytes(path, of_lines), pipes=False)


@case
def log_csv(folder):
    path = a_log(folder, "csv")
    return Case(path, lambda: read_both(path), bytes_of(path), pipes=False)


@case
def log_parquet(folder):
    part = a_log(folder, "parquet") / "part-000000.parquet"
    return Case(part, lambda: read_both(part.parent), bytes_of(part))


def read_both(path: Path):
    return list(read_records(path)), list(read_records(path, all=True))


@case
def header_of_a_log(folder):
    log = a_log(folder, "jsonl")
    path = log.with_suffix(".header.json")
    return Case(path, lambda: read_header(log), text_or_bytes(path, of_json))


def to_continue(path: Path) -> Callable[[], object]:
    def read():
        with Tracker(num_classes=3, metrics="rnc1", sinks=[path]):
            pass

    return read


@case
def log_jsonl_to_continue(folder):
    path = a_log(folder, "jsonl")
    return Case(path, to_continue(path), text_or_bytes(path, of_lines), pipes=False)


@case
def log_csv_to_continue(folder):
    path = a_log(folder, "csv")
    return Case(path, to_continue(path), bytes_of(path), pipes=False)


@case
def log_parquet_to_continue(folder):
    part = a_log(folder, "parquet") / "part-000000.parquet"
    return Case(part, to_continue(part.parent), bytes_of(part), pipes=False)


def idx_bytes(values: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + (values.tobytes())
    )


def an_mnist(folder: Path, *, compressed: bool) -> Path:
    rng = np.random.default_rng(0)
    (folder / "mnist").mkdir()
    for prefix, count in (("train", 12), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        for name, values in (
            ("images-idx3", images),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            raw = idx_bytes(values)
            suffix = ".gz" if compressed else ""
            path = folder / "mnist" / f"{prefix}-{name}-ubyte{suffix}"
            path.write_bytes(gzip.compress(raw) if compressed else raw)
    return folder / "mnist"


def the_data(name: str, folder: Path) -> Callable[[], object]:
    def read():
        train, test = load(name, data_dir=folder)
        for split in (train, test):
            assert split.labels.min() >= 0
            assert split.labels.max() < split.num_classes
            assert split.batch(slice(0, 2))[0].shape[0] > 0
        return train, test

    return read


def same_data(expected):
    def same(found):
        return all(
            torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
            for one, other in zip(found, expected, strict=True)
        )

    return same


@case
def idx_images_gz(folder):
    path = an_mnist(folder, compressed=True) / "train-images-idx3-ubyte.gz"
    read = the_data("mnist", folder)
    return Case(path, read, bytes_of(path), same_data(read()))


@case
def idx_labels_gz(folder):
    path = an_mnist(folder, compressed=True) / "t10k-labels-idx1-ubyte.gz"
    read = the_data("mnist", folder)
    return Case(path, read, bytes_of(path), same_data(read()))


@case
def idx_images_raw(folder):
    path = an_mnist(folder, compressed=False) / "train-images-idx3-ubyte"
    return Case(path, the_data("mnist", folder), bytes_of(path))


@case
def idx_labels_raw(folder):
    path = an_mnist(folder, compressed=False) / "train-labels-idx1-ubyte"
    return Case(path, the_data("mnist", folder), bytes_of(path))


QUESTIONS = [
    "DESC:manner How did serfdom develop ?",
    "HUM:ind Who ?",
    "NUM:date When ?",
]
SENTENCES = ["sentence\tlabel", "a fine film \t1", "a dull film \t0", "fine \t1"]


@case
def trec(folder):
    return _texts(folder, "trec", "train_5500.label", "TREC_10.label", QUESTIONS * 4)


@case
def sst2(folder):
    return _texts(folder, "sst2", "train.tsv", "dev.tsv", SENTENCES)


def _texts(folder, name, train_name, test_name, lines):
    (folder / "text" / name).mkdir(parents=True)
    for file in (train_name, test_name):
        (folder / "text" / name / file).write_text("\n".join(lines) + "\n")
    path = folder / "text" / name / train_name
    return Case(path, the_data(name, folder), bytes_of(path))


ROWS = 20


def _of_few_rows(folder: Path) -> Callable[[], object]:
    read = the_data("cifar10", folder)

    def with_few_rows():
        with mock.patch.object(cifar, "ROWS", ROWS):
            return read()

    return with_few_rows


def _cifar_rows():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (ROWS, 3072), np.uint8), (np.arange(ROWS) % 10).astype(np.uint8)


NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@case
def cifar_binary(folder):
    images, labels = _cifar_rows()
    (folder / cifar.BINARY).mkdir()
    for name in NAMES:
        rows = np.concatenate([labels[:, None], images], 1)
        (folder / cifar.BINARY / f"{name}.bin").write_bytes(rows.tobytes())
    path = folder / cifar.BINARY / "data_batch_2.bin"
    return Case(path, _of_few_rows(folder), bytes_of(path))


@case
def cifar_python(folder):
    images, labels = _cifar_rows()
    (folder / cifar.PYTHON).mkdir()
    for name in NAMES:
        batch = {b"data": images, b"labels": labels.tolist(), b"batch_label": b"x"}
        (folder / cifar.PYTHON / name).write_bytes(pickle.dumps(batch, protocol=2))
    path = folder / cifar.PYTHON / "test_batch"
    return Case(path, _of_few_rows(folder), bytes_of(path))


@case
def features_npz(folder):
    path = folder / "data.npz"
    np.savez_compressed(path, feats=np.random.default_rng(0).standard_normal((30, 4)))

    def read():
        stored = open_stored(path, "feats", ("feats",))
        return torch.cat(list(stored.blocks(0, stored.shape[0], 7)))

    expected = read()
    return Case(path, read, bytes_of(path), lambda found: torch.equal(found, expected))


def summary(counts: dict[str, Counter[str]]) -> str:
    """The counts as JSON, for a results file."""
    return json.dumps({name: dict(found) for name, found in counts.items()}, indent=1)
