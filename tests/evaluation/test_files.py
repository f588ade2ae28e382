import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from ncfast.evaluation.files import check_range, open_features, open_labels, open_rows
from ncfast.evaluation.formats import FORMATS
from ncfast.evaluation.stored import FileError

GENERATOR = np.random.default_rng(0)
FEATS = GENERATOR.standard_normal((1000, 6)).astype("float32")
LABELS = GENERATOR.integers(0, 5, 1000)


def save(path, feats=FEATS, labels=LABELS):
    """Features and labels in the format of the suffix, in one file where it holds several."""
    tensors = {"feats": torch.from_numpy(feats), "labels": torch.from_numpy(labels)}
    if path.suffix == ".npy":
        np.save(path, feats)
        np.save(path.with_name("labels.npy"), labels)
        return path, path.with_name("labels.npy")
    if path.suffix == ".npz":
        np.savez(path, feats=feats, labels=labels)
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        table = pa.table({"embedding": list(feats), "label": labels})
        pq.write_table(table, path, row_group_size=128)
    return path, path


def blocks(rows, *arguments):
    found = list(rows.blocks(*arguments))
    return [len(block) for block in found], torch.cat(found).numpy()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_rows_that_were_saved(tmp_path, suffix):
    feats, labels = map(str, save(tmp_path / f"data{suffix}"))
    found = open_features(feats)
    assert found.shape == (1000, 6)
    assert found.dtype == torch.float32
    sizes, values = blocks(found, 130, 517, 100)
    assert sizes == [100, 100, 100, 87]
    np.testing.assert_array_equal(values, FEATS[130:517])
    np.testing.assert_array_equal(open_labels(labels, found).whole().numpy(), LABELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_dtypes(tmp_path, suffix, dtype):
    tensor = torch.from_numpy(FEATS).to(dtype)
    path = tmp_path / f"x{suffix}"
    torch.save(tensor, path) if suffix == ".pt" else save_file({"x": tensor}, path)
    assert torch.equal(open_features(path).whole(), tensor)


def test_numpy_layouts(tmp_path):
    """Columns first, big-endian, compressed, half precision."""
    np.save(tmp_path / "a.npy", np.asfortranarray(FEATS))
    np.save(tmp_path / "b.npy", FEATS.astype(">f4"))
    np.savez_compressed(tmp_path / "c.npz", FEATS)
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(FEATS.astype(">f4")))
    for name in ("a.npy", "b.npy", "c.npz", "d.npz"):
        _, values = blocks(open_features(tmp_path / name), 3, 900, 256)
        np.testing.assert_array_equal(values, FEATS[3:900])
    np.save(tmp_path / "e.npy", FEATS.astype("float16"))
    (tmp_path / "e.npy").rename(tmp_path / "E.NPY")
    assert open_features(tmp_path / "E.NPY").dtype == torch.float16


def test_the_format_of_torch_before_zip_files(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(torch.from_numpy(FEATS), path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(open_features(path).whole().numpy(), FEATS)


def test_parquet_columns(tmp_path):
    """One column of fixed or free lists, a named one, or a column for each feature."""
    path = tmp_path / "x.parquet"
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(FEATS.ravel()), 6)
    pq.write_table(pa.table({"id": LABELS, "a": fixed, "y": LABELS}), path, row_group_size=300)
    _, values = blocks(open_features(f"{path}:a"), 250, 950, 64)
    np.testing.assert_array_equal(values, FEATS[250:950])
    np.testing.assert_array_equal(open_rows(path, ["y"]).whole().numpy(), LABELS)
    columns = {f"f{column}": FEATS[:, column] for column in range(6)}
    pq.write_table(pa.table({"n": LABELS, "loss": FEATS[:, 0], **columns}), path)
    np.testing.assert_array_equal(open_features(path).whole().numpy(), FEATS)
    table = {f"f{i}": FEATS[:, i] for i in (5, 1, 0, 4, 3, 2)}  # as text, f10 comes before f2
    pq.write_table(pa.table(table), path)
    np.testing.assert_array_equal(open_features(path).whole().numpy(), FEATS)
    pq.write_table(pa.table({"loss": FEATS[:, 0], "score": FEATS[:, 1]}), path)
    with pytest.raises(FileError, match=r"holds \['loss', 'score'\]. Name one of them"):
        open_features(path)


def test_several_files_in_natural_order(tmp_path):
    """Blocks cross the ends of files."""
    for number, part in enumerate(np.array_split(FEATS, 12)):
        np.save(tmp_path / f"part-{number}.npy", part)
    for paths in (
        tmp_path,
        f"{tmp_path}/part-*.npy",
        [tmp_path / f"part-{i}.npy" for i in range(12)],
    ):
        sizes, values = blocks(open_features(paths), 5, 990, 200)
        assert sizes == [200, 200, 200, 200, 185]
        np.testing.assert_array_equal(values, FEATS[5:990])


def test_folders_in_the_same_order_for_features_and_labels(tmp_path, monkeypatch):
    """The file system lists files in any order; the names of the files alone do not tell them."""
    found = [str(tmp_path / f"run-{number}" / "feats.npy") for number in (10, 2, 1)]
    for path, part in zip(found[::-1], np.array_split(FEATS, 3), strict=True):
        Path(path).parent.mkdir()
        np.save(path, part)
    for order in (found, found[::-1]):
        monkeypatch.setattr("glob.glob", lambda pattern, order=order: order)
        values = open_features(f"{tmp_path}/run-*/feats.npy").whole().numpy()
        np.testing.assert_array_equal(values, FEATS)


def test_a_file_is_mapped_and_not_read_when_it_is_opened(tmp_path):
    """A sparse file of 64 GiB opens, and its first rows can be read."""
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, "w+", "float32", (1 << 26, 256))
    found = open_features(path)
    assert found.shape == (1 << 26, 256)
    assert next(found.blocks(1 << 25, 1 << 26, 8)).count_nonzero() == 0


def test_labels_and_their_range(tmp_path):
    path = tmp_path / "y.npy"
    np.save(path, np.array([0, 3, -100, 1]))
    rows = open_rows(path, ())
    assert check_range(rows, None, -100) == 4
    assert check_range(rows, 7, -100) == 7
    with pytest.raises(FileError, match=r"labels in 0..2 but row 1 holds 3"):
        check_range(rows, 3, -100)
    with pytest.raises(FileError, match=r"labels in 0..K-1 but row 2 holds -100.$"):
        check_range(rows, None, None)
    np.save(path, np.array([0, 10**12]))
    with pytest.raises(FileError, match=r"row 1 holds 1000000000000. Pass num_classes if"):
        check_range(open_rows(path, ()), None, -100)
    np.save(path, np.full(4, -100))
    with pytest.raises(FileError, match="every label is -100"):
        check_range(open_rows(path, ()), None, -100)


def test_unsigned_labels_beyond_int64_are_no_label_that_is_left_out(tmp_path):
    path = tmp_path / "y.npy"
    np.save(path, np.array([0, 1, 2**64 - 100], np.uint64))
    for num_classes in (None, 3):
        with pytest.raises(FileError, match=f"row 2 holds {2**64 - 100}"):
            check_range(open_rows(path, ()), num_classes, -100)
    np.save(path, np.array([0, 5, 1], np.uint64))
    assert check_range(open_rows(path, ()), 2, 5) == 2


def bad_files(folder):
    """Arguments of `open_features` and what the error says."""
    objects, damaged, cut = folder / "objects.npy", folder / "damaged.npz", folder / "cut.npy"
    np.save(objects, np.array([{}, None], dtype=object), allow_pickle=True)
    damaged.write_bytes(b"PK\x03\x04 nothing")
    np.save(cut, FEATS)
    cut.write_bytes(cut.read_bytes()[:-100])
    np.savez(folder / "objects.npz", feats=np.array([{}, None], dtype=object))
    np.savez(folder / "two.npz", a=FEATS, b=FEATS)
    torch.save({"feats": FEATS}, folder / "code.pt")
    torch.save(torch.eye(3).to_sparse(), folder / "sparse.pt")
    (folder / "pickle.pt").write_bytes(pickle.dumps({"a": object()}))
    save_file({"feats": torch.tensor(1.0)}, folder / "scalar.safetensors")
    np.save(folder / "map.npy", FEATS.reshape(10, 10, 10, 6))
    np.save(folder / "integers.npy", LABELS)
    np.save(folder / "empty.npy", FEATS[:0])
    np.save(folder / "words.npy", np.array(["a", "b"]))
    pq.write_table(pa.table({"x": ["a", "b"]}), folder / "words.parquet")
    with (folder / "appended.npy").open("wb") as file:
        np.save(file, FEATS)
        np.save(file, FEATS)
    np.savez(folder / "many.npz", **{f"array{i}": FEATS[:0] for i in range(2000)})
    np.savez(folder / "none.npz")
    torch.save({"model": {"feats": torch.eye(3)}}, folder / "nested.pt")
    torch.save(torch.empty(9, 3, device="meta"), folder / "meta.pt")
    columns = {"f0": FEATS[:, 0], "f1": LABELS, "f2": FEATS[:, 2]}
    pq.write_table(pa.table(columns), folder / "gap.parquet")
    (folder / "wide").mkdir()
    np.save(folder / "wide/a.npy", FEATS)
    np.save(folder / "wide/b.npy", FEATS[:, :4])
    (folder / "nothing").mkdir()
    with zipfile.ZipFile(folder / "cut.npz", "w") as archive:
        archive.writestr("feats.npy", cut.read_bytes())
    content = (folder / "integers.npy").read_bytes().replace(b"(1000,), }   ", b"(-4, -250)}  ")
    with zipfile.ZipFile(folder / "negative.npz", "w") as archive:
        archive.writestr("feats.npy", content)
    return {
        "objects.npy": "holds Python objects",
        "objects.npz": "holds Python objects",
        "damaged.npz": "cannot be read as .npz",
        "cut.npy": "cannot be read as .npy",
        "two.npz": r"holds \['a', 'b'\]. Name one of them: .*two.npz:NAME",
        "two.npz:c": r"holds \['a', 'b'\] but not 'c'",
        "code.pt": "holds objects other than tensors",
        "pickle.pt": "objects other than tensors|cannot be read as .pt",
        "sparse.pt": "expected a dense tensor",
        "scalar.safetensors": "a single number",
        "map.npy": r"expected features of shape \(N, D\).*\(10, 10, 10, 6\)",
        "integers.npy": r"expected features in float16.*torch.int64 of shape \(1000,\)",
        "empty.npy": r"expected features of shape \(N, D\).*\(0, 6\)",
        "words.npy": "expected numbers",
        "words.parquet": "expected numbers.* in column 'x' but got string",
        "gap.parquet": "expected floats in column 'f1', as in 'f0', but got int64",
        "appended.npy": "expected 24128 bytes for one array of shape .*the file holds 48256",
        "many.npz": "'array19'] and 1980 more. Name one of them",
        "none.npz": "holds no array",
        "nested.pt": "holds no array",
        "meta.pt": "device meta",
        "negative.npz": r"cannot be read as .npz: .* shape \(-4, -250\)",
        "wide": r"b.npy: expected rows of shape \(6,\).*a.npy, but got \(4,\)",
        "nothing": "the folder holds none of",
        "absent.npy": "no such file",
        "absent-*.npy": "no file has such a name",
        "x.csv": "expected one of .npy",
    }


def test_a_bad_file_is_an_error_of_one_line_that_begins_with_its_name(tmp_path):
    for name, text in bad_files(tmp_path).items():
        with pytest.raises((FileError, FileNotFoundError), match=text) as caught:
            open_features(f"{tmp_path}/{name}")
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(str(tmp_path)), message


def test_a_file_that_ends_early_is_found_when_it_is_read(tmp_path):
    bad_files(tmp_path)
    with pytest.raises(FileError, match="hold 24128 bytes.*but it holds 24028"):
        open_features(tmp_path / "cut.npz").whole()


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ([[1.0], [1.0, 2.0]], "lists of one length in column 'x' but got lengths from 1 to 2"),
        ([[1.0, 2.0], [1.0, 2.0], [3.0]], "lists of 2 numbers in column 'x'.* but got 1"),
        ([[1.0], None], "column 'x' has empty cells"),
        ([[1.0], [None]], "lists of column 'x' have empty entries"),
    ],
)
def test_ragged_and_empty_cells_of_parquet(tmp_path, column, text):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": column}), path)
    feats = open_features(path)
    with pytest.raises(FileError, match=text):
        list(feats.blocks(0, len(feats), 2))


def test_labels_that_do_not_fit_the_features(tmp_path):
    np.save(tmp_path / "x.npy", FEATS)
    feats = open_features(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", LABELS[:-1])
    with pytest.raises(FileError, match=r"labels of shape \(1000,\).*but got \(999,\)"):
        open_labels(tmp_path / "y.npy", feats)
    np.save(tmp_path / "y.npy", LABELS.astype("float32"))
    with pytest.raises(FileError, match="expected integer labels but got torch.float32"):
        open_labels(tmp_path / "y.npy", feats)
