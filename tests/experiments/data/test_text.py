"""Tests the text datasets: vocabulary, padding and errors."""

import pytest
import torch

from ncfast.experiments.data import DataFileError, TextSet, load
from ncfast.experiments.data.text import TREC_CLASSES


def write_trec(folder, train, test):
    folder = folder / "text" / "trec"
    folder.mkdir(parents=True)
    (folder / "train_5500.label").write_bytes(train)
    (folder / "TREC_10.label").write_bytes(test)


def test_trec(tmp_path):
    train = b"DESC:manner How did it end ?\nNUM:date When did it end ?\nHUM:ind Who \xf0 it ?\n"
    write_trec(tmp_path, train, b"NUM:date When did the war end ?\n")
    first, second = load("trec", data_dir=tmp_path)
    assert isinstance(first, TextSet)
    assert first.classes == TREC_CLASSES
    assert first.labels.tolist() == [1, 5, 3]
    # After padding and unknown: the words that occur twice in the training split, sorted.
    assert first.vocabulary == ("<pad>", "<unknown>", "?", "did", "end", "it")
    assert first.inputs.tolist() == [[1, 3, 5, 4, 2], [1, 3, 5, 4, 2], [1, 1, 5, 2, 0]]
    assert second.inputs.tolist() == [[1, 3, 1, 1, 4]], "cut to the longest training text"
    tokens, labels = first.to("cpu").first(2).batch(torch.tensor([1]))
    assert tokens.dtype == torch.int64
    assert labels.tolist() == [5]


def test_sst2(tmp_path):
    folder = tmp_path / "text" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("sentence\tlabel\na good film \t1\na bad film\t0\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\na film , good\t1\n")
    first, second = load("sst2", data_dir=tmp_path, train_size=2)
    assert first.labels.tolist() == [1, 0]
    assert first.inputs.tolist() == [[2, 1, 3], [2, 1, 3]]
    assert second.inputs.tolist() == [[2, 3, 1]]


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(DataFileError, match=r"train_5500\.label: no such file"):
        load("trec", data_dir=tmp_path)
    write_trec(tmp_path, b"DESC:manner How ?\nWHAT is this\n", b"")
    with pytest.raises(DataFileError, match=r"line 2 cannot be read; expected one of the labels"):
        load("trec", data_dir=tmp_path)
    with pytest.raises(ValueError, match="cannot be fetched"):
        load("trec", data_dir=tmp_path, download=True)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (b"", b"NUM:date When ?\n", r"train_5500\.label: holds 0 texts without a word"),
        (b"NUM:date When ?\n", b" \n", r"TREC_10\.label: holds 0 texts without a word"),
        (b"NUM:date\nHUM:ind\n", b"NUM:date When ?\n", "holds 2 texts without a word"),
    ],
)
def test_files_without_a_text(tmp_path, train, test, message):
    write_trec(tmp_path, train, test)
    with pytest.raises(DataFileError, match=message):
        load("trec", data_dir=tmp_path)


def test_lines_end_as_on_any_system(tmp_path):
    text = b"NUM:date When ?\nHUM:ind Who ?\nNUM:date When was it ?\n"
    for number, ending in enumerate((b"\n", b"\r\n", b"\r")):
        folder = tmp_path / str(number)
        write_trec(folder, text.replace(b"\n", ending), text)
        assert len(load("trec", data_dir=folder)[0]) == 3


def test_a_file_that_was_cut_off_is_named(tmp_path):
    write_trec(tmp_path, b"NUM:date When ?\nHUM:ind Who is the pre", b"NUM:date When ?\n")
    with pytest.raises(DataFileError, match=r"train_5500\.label: ends within line 2"):
        load("trec", data_dir=tmp_path)


def test_a_missing_header_costs_no_sample(tmp_path):
    folder = tmp_path / "text" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("a good film \t1\na bad film\t0\n")
    with pytest.raises(
        DataFileError, match=r"train\.tsv: line 1 cannot be read; expected a header"
    ):
        load("sst2", data_dir=tmp_path)


def test_a_file_that_is_not_utf_8(tmp_path):
    folder = tmp_path / "text" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_bytes(b"sentence\tlabel\na caf\xe9 \t1\n")
    with pytest.raises(DataFileError, match="train.tsv: byte 20 cannot be read; expected text in"):
        load("sst2", data_dir=tmp_path)
    (folder / "train.tsv").unlink()
    (folder / "train.tsv").mkdir()
    with pytest.raises(DataFileError, match="train.tsv: no regular file; expected a text file"):
        load("sst2", data_dir=tmp_path)


def test_the_real_files(data_dir):
    train, test = load("trec", data_dir=data_dir)
    assert (len(train), len(test)) == (5452, 500)
    assert train.inputs.max() < len(train.vocabulary)
    assert (train.inputs[:, 0] > 0).all()
    train, test = load("sst2", data_dir=data_dir)
    assert (len(train), len(test)) == (67349, 872)
