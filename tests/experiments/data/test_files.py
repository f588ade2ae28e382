"""Tests IDX and CIFAR-10 files: real ones if present, and damaged ones of every kind."""

import gzip
import http.server
import os
import pickle
import struct
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ncfast.experiments.data import DataFileError, load
from ncfast.experiments.data.cifar import UnsafePickleError, load_arrays
from ncfast.experiments.data.datasets import SOURCES
from ncfast.experiments.data.sources import Source, fetch


def idx_bytes(values):
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """A small MNIST of 30 training and 20 test images."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, count in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx_bytes(images))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx_bytes(labels))
    return tmp_path


def test_idx(mnist):
    train, test = load("mnist", data_dir=mnist, train_size=25)
    assert (len(train), len(test), train.num_classes, train.input_size) == (25, 20, 10, 784)
    assert train.inputs.dtype == torch.uint8
    assert train.inputs.shape == (25, 1, 28, 28)
    x, y = train.batch(slice(3, 5))
    assert y.tolist() == [3, 4]
    expected = (train.inputs[3:5].double() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_as_other_programs_leave_it(mnist, dot):
    """Uncompressed files, as from torchvision, also with the dot of LeCun's archive."""
    expected = load("mnist", data_dir=mnist)
    for path in [*(mnist / "mnist").iterdir()]:
        plain = path.with_name(path.stem.replace("-idx", f"{dot}idx"))
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    for found, split in zip(load("mnist", data_dir=mnist), expected, strict=True):
        assert torch.equal(found.inputs, split.inputs)
        assert torch.equal(found.labels, split.labels)
    plain.write_bytes(plain.read_bytes()[:-1])
    with pytest.raises(DataFileError, match=r"holds \d+ bytes uncompressed"):
        load("mnist", data_dir=mnist)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.unlink(), r"no such file; expected a gzip file of md5 .*--download"),
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), r"truncated or corrupt.*md5.*Delete it"),
        (lambda f: f.write_bytes(b"hello"), "truncated or corrupt"),
        (
            lambda f: f.write_bytes(f.read_bytes()[:200] + b"XX" + f.read_bytes()[202:]),
            "truncated or corrupt",
        ),
        (lambda f: f.write_bytes(gzip.compress(b"\0\0\x09\3" + bytes(64))), "IDX magic"),
        (
            lambda f: f.write_bytes(gzip.compress(gzip.decompress(f.read_bytes())[:-5])),
            r"holds 23531 bytes uncompressed; expected 23536 for shape \(30, 28, 28\)",
        ),
    ],
    ids=["missing", "truncated", "no gzip", "corrupt", "magic", "short"],
)
def test_damaged_idx(mnist, damage, message):
    path = mnist / "mnist" / "train-images-idx3-ubyte.gz"
    damage(path)
    with pytest.raises(DataFileError, match=message) as caught:
        load("mnist", data_dir=mnist)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("fashion-mnist/train-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("mnist/t10k-images-idx3-ubyte.gz", "train-images-idx3-ubyte.gz"),
    ],
)
def test_an_official_file_in_the_place_of_another(mnist, data_dir, theirs, ours):
    (mnist / "mnist" / ours).write_bytes((Path(data_dir) / theirs).read_bytes())
    with pytest.raises(DataFileError, match=f"{ours}: is {theirs}; expected mnist/{ours}"):
        load("mnist", data_dir=mnist)


def test_images_and_labels_that_differ_in_number(mnist):
    path = mnist / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(idx_bytes(np.zeros(29, np.uint8)))
    with pytest.raises(DataFileError, match="holds 29 labels; expected 30"):
        load("mnist", data_dir=mnist)


@pytest.fixture
def cifar():
    """10,000 synthetic rows in the CIFAR-10 layout."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (10_000, 3072), np.uint8), np.arange(10_000) % 10


def write_binary(folder, name, cifar):
    folder.mkdir(exist_ok=True)
    rows = np.concatenate([cifar[1][:, None].astype(np.uint8), cifar[0]], axis=1)
    rows.tofile(folder / f"{name}.bin")


def test_cifar_binary_reads_only_the_batches_it_needs(tmp_path, cifar):
    folder = tmp_path / "cifar-10-batches-bin"
    for name in ("data_batch_1", "test_batch"):
        write_binary(folder, name, cifar)
    train, test = load("cifar10", data_dir=tmp_path, train_size=10_000)
    assert train.inputs.shape == test.inputs.shape == (10_000, 3, 32, 32)
    assert torch.equal(train.inputs[7].flatten(), torch.from_numpy(cifar[0][7]))
    assert train.labels[:12].tolist() == [*range(10), 0, 1]
    with pytest.raises(DataFileError, match=r"data_batch_2\.bin: no such file; expected 30730000"):
        load("cifar10", data_dir=tmp_path, train_size=10_001)
    (folder / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(DataFileError, match="holds 5 bytes; expected 30730000 bytes"):
        load("cifar10", data_dir=tmp_path, train_size=100)


@pytest.mark.parametrize("as_list", [True, False])
def test_cifar_python(tmp_path, cifar, as_list):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    labels = cifar[1].tolist() if as_list else cifar[1]
    for name in ("data_batch_1", "test_batch"):
        content = {b"data": cifar[0], b"labels": labels, b"batch_label": b"x", b"filenames": [b"a"]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    train, _ = load("cifar10", data_dir=tmp_path, train_size=50)
    assert torch.equal(train.inputs[49].flatten(), torch.from_numpy(cifar[0][49]))
    (folder / "test_batch").write_bytes((folder / "test_batch").read_bytes()[:5000])
    with pytest.raises(DataFileError, match="test_batch: truncated or corrupt"):
        load("cifar10", data_dir=tmp_path, train_size=50)


class Exploit:
    def __reduce__(self):
        import os

        return os.system, ("echo pwned > pwned",)


def test_a_pickle_with_code_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Exploit()}))
    with pytest.raises(DataFileError, match=r"names posix\.system, which is no array"):
        load("cifar10", data_dir=tmp_path, train_size=10)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("payload", [Exploit(), np.float64, slice, print, np.array([Exploit()])])
def test_restricted_unpickler(payload):
    with pytest.raises(UnsafePickleError, match="no array"):
        load_arrays(pickle.dumps(payload))


def test_plain_containers_pass():
    content = {"a": [1, 2.5, None, True], b"b": (np.arange(6).reshape(2, 3), "text"), "c": {1, 2}}
    again = load_arrays(pickle.dumps(content, protocol=4))
    assert again["a"] == content["a"]
    assert np.array_equal(again[b"b"][0], content[b"b"][0])


def test_labels_outside_the_classes(tmp_path, cifar):
    folder = tmp_path / "cifar-10-batches-bin"
    write_binary(folder, "data_batch_1", (cifar[0], cifar[1] + 5))
    write_binary(folder, "test_batch", cifar)
    with pytest.raises(DataFileError, match="holds labels 5 to 14; expected 0 to 9"):
        load("cifar10", data_dir=tmp_path, train_size=10)


@pytest.fixture
def mirror(mnist):
    """The synthetic MNIST behind a local web server."""
    handler = partial(QuietHandler, directory=str(mnist / "mnist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", mnist / "mnist"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def source(url, folder, wrong=None):
    import hashlib

    md5 = {f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in folder.glob("*.gz")}
    if wrong:
        md5[wrong] = "0" * 32
    base = SOURCES["mnist"]
    return Source("mnist", url, md5, base.classes, base.mean, base.std)


def test_download_verifies(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("POOCH_LOG", "off")
    url, folder = mirror
    target = tmp_path / "fresh"
    fetch(source(url, folder), target)
    train, _ = load("mnist", data_dir=target)
    assert len(train) == 30
    with pytest.raises(ValueError, match="hash"):
        fetch(source(url, folder, wrong="t10k-labels-idx1-ubyte.gz"), tmp_path / "other")
    assert not (tmp_path / "other" / "mnist" / "t10k-labels-idx1-ubyte.gz").exists()


def test_nothing_is_fetched_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("ncfast.experiments.data.datasets.fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(DataFileError, match="no such file"):
        load("mnist", data_dir=tmp_path)


def test_the_data_directory(mnist, monkeypatch):
    monkeypatch.delenv("NCFAST_DATA", raising=False)
    with pytest.raises(ValueError, match=r"--data-dir DIR or set NCFAST_DATA.*--download"):
        load("mnist")
    monkeypatch.setenv("NCFAST_DATA", str(mnist))
    assert len(load("mnist")[0]) == 30


@pytest.mark.parametrize("size", [0, 31, -1])
def test_train_size_out_of_range(mnist, size):
    with pytest.raises(ValueError, match=rf"1\.\.30 for this dataset but got {size}"):
        load("mnist", data_dir=mnist, train_size=size)


def test_unknown_dataset():
    with pytest.raises(ValueError, match=r"one of \('digits', 'mnist'.*'svhn'"):
        load("svhn")


def test_real_mnist(data_dir):
    train, test = load("mnist", data_dir=data_dir)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    x, _ = train.batch(slice(None))
    assert float(x.mean()) == pytest.approx(0, abs=1e-3)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)


def test_real_fashion_mnist(data_dir):
    train, test = load("fashion-mnist", data_dir=data_dir)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert train.classes[int(train.labels[0])] == "Ankle boot"


def test_real_cifar10(data_dir):
    train, test = load("cifar10", data_dir=data_dir, train_size=10_000)
    assert (len(train), len(test)) == (10_000, 10_000)
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[int(train.labels[0])] == "frog"


def replace_labels(mnist, raw):
    (mnist / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(raw)


def test_a_label_without_a_class(mnist):
    replace_labels(mnist, idx_bytes(np.full(20, 200, np.uint8)))
    with pytest.raises(DataFileError, match=r"holds the label 200; expected labels 0 to 9"):
        load("mnist", data_dir=mnist)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2**32 - 1,) * 3, "expected 79228162458924105385300197391 for shape"),
        ((0, 28, 28), "has the shape \\(0, 28, 28\\); expected at least one sample"),
        ((30, 14, 56), "holds images \\(30, 14, 56\\); expected \\(N, 28, 28\\)"),
    ],
)
def test_a_shape_that_cannot_be(mnist, shape, message):
    path = mnist / "mnist" / "train-images-idx3-ubyte.gz"
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:4] + struct.pack(">3I", *shape) + raw[16:]))
    with pytest.raises(DataFileError, match=message):
        load("mnist", data_dir=mnist)


def test_no_more_is_decompressed_than_the_file_declares(mnist):
    """A file of 250 kB that decompresses to 256 MB."""
    raw = bytes([0, 0, 8, 1]) + struct.pack(">I", 20) + bytes(20)
    with gzip.open(mnist / "mnist" / "t10k-labels-idx1-ubyte.gz", "wb", compresslevel=9) as file:
        file.write(raw)
        for _ in range(256):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(DataFileError, match="more than 28 bytes uncompressed; expected 28"):
        load("mnist", data_dir=mnist)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("size", [1 << 40, (1 << 30) + 1])
def test_a_file_that_is_far_too_large(mnist, size):
    path = mnist / "mnist" / "train-images-idx3-ubyte.gz"
    os.truncate(path, size)
    with pytest.raises(DataFileError, match=f"holds {size:,} bytes"):
        load("mnist", data_dir=mnist)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((4, 3072))}, "holds float64 images and 4 int64 labels"),
        ({b"labels": [0.5, 1.0, 2.0, 3.0]}, "holds uint8 images and 4 float64 labels"),
        ({b"labels": []}, "and 0 float64 labels"),
        ({b"labels": [[1], [2], [3], [4]]}, r"labels of shape \(4, 1\)"),
        ({b"labels": [1, 2, 3]}, r"images of shape \(4, 3072\) and labels of shape \(3,\)"),
        ({b"labels": [1, 2, 3, 10]}, "holds labels 1 to 10; expected 0 to 9"),
        ({b"data": None}, "holds object images"),
    ],
)
def test_cifar_python_batches_of_other_kinds(tmp_path, change, message):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "test_batch").write_bytes(pickle.dumps({**batch, **change}, protocol=2))
    with pytest.raises(DataFileError, match=message):
        load("cifar10", data_dir=tmp_path, train_size=4)


def test_a_pickle_that_asks_for_a_huge_table_is_refused():
    """The unpickler would make a table of 16 GiB for this entry."""
    raw = b"\x80\x02]r" + struct.pack("<I", 2**30) + b"."
    with pytest.raises(UnsafePickleError, match="names the entry 1073741824 of a table"):
        load_arrays(raw)
