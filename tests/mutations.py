"""Damages a valid file in many ways: its reader must say so in one line, or not be misled.

`try_all` is the loop; the functions before it yield the mutations of a kind of file.
"""

import json
import os
import random
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# what the command line shows as one line; see ncfast.cli
CLEAN = (OSError, ValueError, RuntimeError)
_MARK = "raw:"  # a text that begins with it is written without quotes
_HOSTILE = (
    *(None, True, False, -1, 0, 1, 1.5, -0.0, 10**18, 10**30, 1e308, "", "abc", [], {}, [[]]),
    *("\0", "a\nb", "../..", "/etc/passwd", "\ud800", "²", "x" * 10_000, [None], [-1], ["a", 1]),
    *(f"{_MARK}{text}" for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "+1")),
    *(f"{_MARK}{text}" for text in ("9" * 400, "9" * 5000, "0.1e-400", "[" * 100_000, "'a'", "//")),
)


@dataclass(frozen=True)
class Mutation:
    """A change of the file at a path.

    Attributes:
        name: says what was changed, for a failure.
        apply: changes the file.
    """

    name: str
    apply: Callable[[Path], object]


def _replaced(name: str, content: bytes) -> Mutation:
    return Mutation(name, lambda path: path.write_bytes(content))


def of_bytes(content: bytes, seed: int = 0) -> Iterator[Mutation]:
    """Endless damage to the bytes of a file: cut, flipped, deleted, doubled, inserted, swapped."""
    rng = random.Random(seed)
    yield _replaced("empty", b"")
    yield _replaced("twice", content * 2)
    yield _replaced("zeros", bytes(len(content)))
    yield _replaced("with a byte order mark", b"\xef\xbb\xbf" + content)
    yield _replaced("in UTF-16", content.decode("latin-1").encode("utf-16"))
    while True:
        at = rng.randrange(len(content))
        # short files of text matter most at their beginning
        at = rng.choice([at, at, rng.randrange(min(len(content), 400))])
        size = min(rng.choice([1, 2, 8, 100]), len(content) - at)
        byte = bytes([rng.choice([0, 0xFF, 0x0A, 0x22, 0x2C, 0x7D, 0xC3, rng.randrange(256)])])
        bit = bytes([content[at] ^ 1 << rng.randrange(8)])
        before, part, after = content[:at], content[at : at + size], content[at + size :]
        yield from rng.sample(
            [
                _replaced(f"cut at {at}", before),
                _replaced(f"bit of byte {at}", before + bit + content[at + 1 :]),
                _replaced(f"byte {at} is {byte!r}", before + byte + content[at + 1 :]),
                _replaced(f"without {size} bytes at {at}", before + after),
                _replaced(f"{size} bytes at {at} twice", before + part + part + after),
                _replaced(f"{byte!r} inserted at {at}", before + byte * size + part + after),
                _replaced(f"parts swapped at {at}", part + after + before),
            ],
            2,
        )


def of_json(content: bytes, seed: int = 0) -> Iterator[Mutation]:
    """Endless changes of the entries of a JSON object: another value, deleted, renamed, doubled."""
    rng = random.Random(seed)
    whole = json.loads(content)
    for value in _HOSTILE:
        yield _replaced(f"the whole file is {str(value)[:20]!r}", _dump(value))
    while True:
        places = list(_places(whole))
        where = rng.choice(places)
        value = rng.choice(_HOSTILE)
        told = "/".join(map(str, where))
        copy = json.loads(content)
        owner, key = _follow(copy, where[:-1]), where[-1]
        kind = rng.choice(["value", "value", "value", "delete", "add", "rename", "double", "move"])
        if kind == "value":
            owner[key] = value
        elif kind == "delete":
            del owner[key]
        elif kind == "move":
            owner[key] = _follow(whole, rng.choice(places))
        elif isinstance(owner, list):
            owner.insert(key, value)
        elif kind == "add":
            owner[f"{key}x"] = value
        elif kind == "rename":
            owner[f"{key[:-1]}\ud800" if rng.random() < 0.3 else key[::-1]] = owner.pop(key)
        else:
            owner[f"{_MARK}{json.dumps(key)}"] = value
        yield _replaced(f"{kind} {told}: {str(value)[:20]!r}", _dump(copy))


def of_lines(content: bytes, seed: int = 0) -> Iterator[Mutation]:
    """Endless changes of a log: an entry of a line, or lines that are lost, doubled or swapped."""
    rng = random.Random(seed)
    lines = content.splitlines(keepends=True)
    while True:
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        changed = next(islice(of_json(lines[at], rng.random()), len(_HOSTILE), None))
        line = _after(changed)
        for name, kept in (
            (f"line {at + 1}: {changed.name}", [*lines[:at], line, *lines[at + 1 :]]),
            (f"without line {at + 1}", [*lines[:at], *lines[at + 1 :]]),
            (f"line {at + 1} after {other + 1}", [*lines[:other], lines[at], *lines[other:]]),
            (f"line {at + 1} joined", [*lines[:at], lines[at].rstrip(), *lines[at + 1 :]]),
        ):
            yield _replaced(name, b"".join(kept))


def _after(mutation: Mutation) -> bytes:
    """The bytes that a mutation of `of_json` writes, as one line."""
    found: list[bytes] = []

    class Catch:
        write_bytes = staticmethod(found.append)

    mutation.apply(Catch)  # type: ignore[arg-type]
    return found[0] + b"\n"


def of_tensors(path: Path, seed: int = 0) -> Iterator[Mutation]:
    """Endless changes of the tensors and the header of a safetensors file.

    Most keep the file well formed: another shape, dtype or value, a tensor that is lost or added,
    other metadata.
    """
    rng = random.Random(seed)
    tensors, content = load_file(path), path.read_bytes()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    # now, because the file will be another one when the first mutation is asked for
    return _of_tensors(tensors, content, metadata, rng)


def _of_tensors(
    tensors: dict[str, torch.Tensor], content: bytes, metadata: dict[str, str], rng: random.Random
) -> Iterator[Mutation]:
    size = int.from_bytes(content[:8], "little")
    header = of_json(content[8 : 8 + size].rstrip(b" "), rng.randrange(100))
    while True:
        name = rng.choice(sorted(tensors))
        change, value = rng.choice(_changes(tensors[name], rng))
        kept = {**tensors, name: value} if value is not None else dict(tensors)
        if value is None:
            del kept[name]
        yield Mutation(f"{name}: {change}", lambda p, t=kept: save_file(t, p, metadata=metadata))
        extra = {**tensors, f"{name}x": tensors[name].clone()}
        yield Mutation(f"{name}x added", lambda p, t=extra: save_file(t, p, metadata=metadata))
        key = rng.choice(sorted(metadata))
        other = {**metadata, key: rng.choice(["", "x", "{}", "[]", "null", "0", "1", "1" * 64])}
        yield Mutation(f"metadata {key}", lambda p, m=other: save_file(tensors, p, metadata=m))
        yield Mutation("no metadata", lambda p: save_file(tensors, p))
        changed = _after(next(header))
        again = len(changed).to_bytes(8, "little") + changed + content[8 + size :]
        yield _replaced("header", again)
        length = rng.choice([0, 1, 7, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])
        yield _replaced(f"header of {length} bytes", length.to_bytes(8, "little") + content[8:])


def _changes(value: torch.Tensor, rng: random.Random) -> list[tuple[str, torch.Tensor | None]]:
    wide = value.flatten()
    number = rng.choice([-1, 10**18, -(2**63), 2**63 - 1])
    spoilt = value.clone()
    if spoilt.numel():
        at = rng.randrange(spoilt.numel())
        bad = rng.choice([float("nan"), float("inf"), 1e38]) if value.is_floating_point() else 1
        spoilt.view(-1)[at] = bad if value.is_floating_point() else spoilt.view(-1)[at] ^ bad
    return [
        ("lost", None),
        ("of 3 elements", torch.zeros(3, dtype=value.dtype)),
        ("of no element", torch.zeros(0, dtype=value.dtype)),
        ("one row more", torch.cat([wide, wide[:1]])),
        ("another shape", value.unsqueeze(0).clone()),
        ("float64", value.to(torch.float64)),
        ("int32", value.nan_to_num(0, 0, 0).to(torch.int32)),
        ("bfloat16", value.to(torch.bfloat16)),
        ("all NaN", torch.full(value.shape, float("nan"))),
        ("zeros", torch.zeros_like(value)),
        (f"all {number}", torch.full(value.shape, number, dtype=torch.int64)),
        ("one element changed", spoilt),
        ("one element changed", spoilt),
    ]


def of_place(content: bytes, *, pipes: bool = True) -> list[Mutation]:
    """What can be at the path instead of the file; root can read it even without permission.

    Args:
        content: the valid file.
        pipes: whether a pipe is among them. A reader that takes pipes waits for one without writer.
    """
    found = [
        Mutation("nothing", lambda path: path.unlink()),
        Mutation("a directory", _directory),
        Mutation("a symbolic link to itself", lambda path: _linked(path, path.name)),
        Mutation("a link to nothing", lambda path: _linked(path, "nowhere")),
        Mutation("a link to its directory", lambda path: _linked(path, ".")),
        Mutation("a device", lambda path: _linked(path, "/dev/zero")),
        Mutation("unreadable", lambda path: path.chmod(0)),
        Mutation("terabytes of zeros", lambda path: os.truncate(path, 1 << 40)),
        Mutation("a link to a copy", lambda path: _moved(path, content)),
    ]
    return [*found, Mutation("a pipe", _pipe)] if pipes else found


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _moved(path: Path, content: bytes) -> None:
    copy = path.with_name(f"{path.name}.copy")
    copy.write_bytes(content)
    _linked(path, copy.name)


def _places(value: object, where: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    entries: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value[:20]))
    for key, entry in entries:
        yield (*where, key)
        yield from _places(entry, (*where, key))


def _follow(value, where):  # type: ignore[no-untyped-def]
    for key in where:
        value = value[key]
    return value


def _dump(value: object) -> bytes:
    """JSON with the texts marked as raw in it; a marked key is written a second time."""
    text = json.dumps(value, indent=1).replace("\n", " ")
    for raw in {entry for entry in _texts(value) if entry.startswith(_MARK)}:
        text = text.replace(json.dumps(raw), raw.removeprefix(_MARK))
    return text.encode()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from chain(value, *map(_texts, value.values()))
    elif isinstance(value, list):
        yield from chain(*map(_texts, value))


def mixed(*kinds: Iterator[Mutation]) -> Iterator[Mutation]:
    """Mutations of several endless kinds in turn."""
    return (next(kind) for kind in cycle(kinds))


def restore(path: Path, content: bytes) -> None:
    """Put the valid file back, whatever is at its path."""
    if path.is_symlink() or not path.exists():
        path.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)
    elif not stat.S_ISREG(path.stat().st_mode):
        path.unlink()
    else:
        path.chmod(0o644)
    path.write_bytes(content)


def try_all(
    path: Path,
    read: Callable[[], object],
    mutations: Iterator[Mutation],
    count: int,
    *,
    same: Callable[[object], bool] = lambda found: True,
    pipes: bool = True,
) -> Counter[str]:
    """Apply mutations to a file one after the other, and read it after each.

    Args:
        path: a valid file, which is there again at the end.
        read: reads it; may be called any number of times.
        mutations: of the file.
        count: how many of them, besides those of `of_place`.
        same: whether what was read is right in spite of the mutation. A reader that cannot know,
            because a number of a log may be any number, leaves it out.
        pipes: see `of_place`.

    Returns:
        How often the reader gave a "clean error" or the "same result".

    Raises:
        AssertionError: the reader raised another error, one that does not name the file or has more
            than one line, or gave something else.
    """
    content, found = path.read_bytes(), Counter[str]()
    try:
        for mutation in chain(of_place(content, pipes=pipes), islice(mutations, count)):
            restore(path, content)
            mutation.apply(path)
            try:
                result = read()
            except CLEAN as error:
                if not _is_clean(error, path):
                    raise AssertionError(f"{mutation.name}: {type(error)}: {error}") from error
                found["clean error"] += 1
            except Exception as error:
                raise AssertionError(f"{mutation.name}: {error!r}") from error
            else:
                assert same(result), f"{mutation.name}: a wrong result without an error"
                found["same result"] += 1
    finally:
        restore(path, content)
    return found


def _is_clean(error: Exception, path: Path) -> bool:
    """Whether a message is one line of readable length that names the file or its folder."""
    text = str(error)
    # a subclass such as UnicodeDecodeError or RecursionError comes from inside a reader
    ours = isinstance(error, OSError) or type(error) in (ValueError, RuntimeError)
    ours = ours or type(error).__module__.startswith("ncfast")
    named = path.name in text or str(path.parent) in text
    return ours and named and "\n" not in text and len(text) < 1500
