"""Tests that damage to a file is said in one line, and never makes a wrong run."""

import damaged_files
import pytest
from damaged_files import CASES
from mutations import of_bytes, of_json, try_all

COUNT = 200


@pytest.mark.parametrize("name", CASES)
def test_mutations_give_one_clean_line_or_the_same_result(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a reader must not depend on where it runs
    counts = damaged_files.run(name, tmp_path, COUNT)
    assert counts["clean error"] > 0
    assert sum(counts.values()) >= COUNT


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": 1, "b": {"c": [2, 3]}}')
    return path


def mutations(file, kind=of_json):
    return kind(file.read_bytes(), seed=1)


def test_a_reader_that_is_misled_is_found(file):
    with pytest.raises(AssertionError, match="a wrong result without an error"):
        try_all(file, lambda: 7, mutations(file), 5, same=lambda found: found == 8)


@pytest.mark.parametrize(
    "error",
    [KeyError("a"), ValueError("no name of the file"), ValueError("file.json: two\nlines")],
)
@pytest.mark.parametrize("kind", [of_json, of_bytes])
def test_a_reader_with_another_error_is_found(file, error, kind):
    def read():
        raise error

    with pytest.raises(AssertionError, match="nothing: "):
        try_all(file, read, mutations(file, kind), 5)


def test_the_valid_file_is_there_at_the_end_and_every_mutation_differs(file):
    content, seen = file.read_bytes(), []

    def read():
        seen.append(file.read_bytes() if file.is_file() and file.stat().st_size < 2**30 else b"")
        raise ValueError("file.json: never read")

    counts = try_all(file, read, mutations(file), 300)
    assert counts == {"clean error": 310}
    assert file.read_bytes() == content
    assert len(set(seen)) > 150
