"""Reads TREC questions and SST-2 sentences as token ids of the training split's vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.sources import DataFileError, check_file

PADDING, UNKNOWN = "<pad>", "<unknown>"
MAX_LENGTH = 64
MIN_COUNT = 2  # rarer words become <unknown>, which trains its embedding
TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
SST2_CLASSES = ("negative", "positive")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")  # not those that str.splitlines finds in latin-1
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_COPY = "Copy the file anew."
Rows = list[tuple[str, int]]


@dataclass(frozen=True)
class TextSet(ImageSet):
    """Texts of one split. ``inputs`` are (N, L) int64 token ids, padded with 0.

    Attributes:
        vocabulary: the word of each token id.
    """

    vocabulary: tuple[str, ...] = ()

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Token ids and labels at ``index``."""
        return self.inputs[index], self.labels[index]


def words(text: str) -> list[str]:
    """Lower-case words; every other character except white space is a word of its own.

    Example:
        >>> words("What's 'NATO'?")
        ['what', "'", 's', "'", 'nato', "'", '?']
    """
    return _WORD.findall(text.lower())


def load_trec(folder: Path) -> tuple[TextSet, TextSet]:
    """5,452 training and 500 test questions in six coarse classes (Li & Roth 2002).

    Raises:
        DataFileError: a file is missing or a line has no known label.
    """
    return _encode(
        _read_trec(folder / "train_5500.label"), _read_trec(folder / "TREC_10.label"), TREC_CLASSES
    )


def load_sst2(folder: Path) -> tuple[TextSet, TextSet]:
    """67,349 training phrases and the 872 sentences of the dev split (Socher et al. 2013).

    Raises:
        DataFileError: a file is missing or a line has no known label.
    """
    return _encode(_read_sst2(folder / "train.tsv"), _read_sst2(folder / "dev.tsv"), SST2_CLASSES)


def _lines(path: Path, encoding: str) -> list[str]:
    check_file(path, "a text file")
    try:
        lines = _LINE_BREAK.split(path.read_bytes().decode(encoding))
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} cannot be read"
        raise DataFileError(path, problem, f"text in {encoding}", _COPY) from error
    if lines[-1]:  # half of a text would be taken for a whole one
        raise DataFileError(path, f"ends within line {len(lines)}", "a line break there", _COPY)
    return lines


def _read_trec(path: Path) -> Rows:
    rows = []
    for number, line in enumerate(_lines(path, "latin-1"), start=1):
        if not line.strip():
            continue
        label, _, question = line.partition(" ")
        coarse = label.split(":")[0]
        if coarse not in TREC_CLASSES:
            raise _bad_line(path, number, f"one of the labels {', '.join(TREC_CLASSES)}")
        rows.append((question, TREC_CLASSES.index(coarse)))
    return _with_words(path, rows)


def _read_sst2(path: Path) -> Rows:
    rows = []
    header, *lines = _lines(path, "utf-8")
    if header.rpartition("\t")[2].strip() in ("0", "1"):  # it would be lost
        raise _bad_line(path, 1, "a header such as sentence, a tab, label")
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        sentence, _, label = line.rpartition("\t")
        if label.strip() not in ("0", "1"):
            raise _bad_line(path, number, "a sentence, a tab and the label 0 or 1")
        rows.append((sentence, int(label)))
    return _with_words(path, rows)


def _with_words(path: Path, rows: Rows) -> Rows:
    if not any(words(text) for text, _ in rows):
        raise DataFileError(path, f"holds {len(rows)} texts without a word", "texts", _COPY)
    return rows


def _bad_line(path: Path, number: int, expected: str) -> DataFileError:
    return DataFileError(path, f"line {number} cannot be read", expected, _COPY)


def _encode(train: Rows, test: Rows, classes: Sequence[str]) -> tuple[TextSet, TextSet]:
    split = [[words(text) for text, _ in rows] for rows in (train, test)]
    counts = Counter(word for text in split[0] for word in text)
    known = sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    vocabulary = (PADDING, UNKNOWN, *known)
    ids = {word: index for index, word in enumerate(vocabulary)}
    length = min(MAX_LENGTH, max(len(text) for text in split[0]))
    as_is = torch.zeros(()), torch.ones(())

    def text_set(texts: list[list[str]], rows: Rows) -> TextSet:
        tokens = torch.zeros((len(texts), length), dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            found = [ids.get(word, 1) for word in text[:length]]
            row[: len(found)] = torch.tensor(found, dtype=torch.int64)
        labels = torch.tensor([label for _, label in rows])
        return TextSet(tokens, labels, tuple(classes), *as_is, vocabulary=vocabulary)

    return text_set(split[0], train), text_set(split[1], test)
