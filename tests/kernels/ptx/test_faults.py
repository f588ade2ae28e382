"""Tests that faults planted in the compiled kernels are found.

A fault is found if the executor reports it, or if a result differs from the oracle's.
"""

import re
import warnings
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from oracle import two_pass
from ptx import machine
from ptx.launches import Executed
from ptx.memory import Fault
from samples import collapsed

import ncfast
from ncfast.ops import _fallback
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.grouping import build
from ncfast.ops.update import UPDATE

FOLDER = Path(__file__).parents[3] / "kernels"
SOURCES = {path.name: path.read_text().splitlines() for path in FOLDER.glob("*.py")}
GLOBAL = r"(?:ld\.global|st\.global|cp\.async\.c[ag])"
REPORTED = ("race", "out of bounds", "misaligned", "never written", "no part of the tensor")
REPORTED += ("copy in flight", "read before it is written", "barrier", "warp")


def guarded(feats):
    """The same rows, each followed by bytes that are no part of the tensor."""
    wide = torch.full((len(feats), feats.shape[1] + 8), torch.nan, dtype=feats.dtype)
    wide[:, : feats.shape[1]] = feats
    return wide[:, : feats.shape[1]]


def error(found, feats, labels):
    """The largest relative error of a moment."""
    expected = two_pass(feats, labels, len(found.counts))
    if found.counts.tolist() != expected["counts"].tolist():
        return torch.inf
    names = ("means", "within_ss", "norm_sum", "norm_max")
    pairs = [(getattr(found, name).numpy(), expected[name]) for name in names]
    with np.errstate(all="ignore"):
        return max(float(np.nan_to_num(abs(a - b) / abs(b), nan=9).max()) for a, b in pairs)


def tiny():
    feats, labels = collapsed(1e-1, count=70, dim=12, num_classes=3)
    feats = guarded(feats)
    return error(passes.compute(feats, labels, 3), feats, labels)


def planned():
    feats, labels = collapsed(1e-1, count=560, dim=12, num_classes=2)  # two segments each
    feats = guarded(feats)
    return error(passes.planned(feats, build(labels, 2)), feats, labels)


def columns():
    """Classes that are merged in two blocks of columns."""
    feats, labels = collapsed(1e-1, count=530, dim=130, num_classes=2)
    return error(passes.planned(feats, build(labels, 2)), feats, labels)


def wide():
    """Rows wider than a tile."""
    feats, labels = collapsed(1e-1, count=12, dim=1030, num_classes=2, dtype=torch.float64)
    return error(passes.planned(feats, build(labels, 2)), feats, labels)


def update():
    """Two batches of few columns: several threads hold each of them."""
    feats, labels = collapsed(1e-1, count=70, dim=6, num_classes=3)
    feats = guarded(feats)
    state = ncfast.ClassMoments.empty(3, 6)
    for part in (slice(0, 40), slice(40, 70)):
        UPDATE.on_device(feats[part], labels[part], state)
    return error(state, feats, labels)


def decide():
    """Pairs of means that float32 cannot tell apart: rows are listed and decided again."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(2, 12, generator=generator).double()
    weight = torch.cat((base, base + 1e-9 * torch.randn(2, 12, generator=generator)))[None]
    offset = -weight.square().sum(2) / 2
    feats = (base[torch.arange(60) % 2] + torch.randn(60, 12, generator=generator) / 9).float()
    found = STACKED_DECISIONS.on_device(feats, torch.zeros(1, 12).double(), weight, offset)
    expected = STACKED_DECISIONS.reference(feats, torch.zeros(1, 12).double(), weight, offset)
    return 1.0 - float((found == expected).double().mean())


RUNS = [tiny, planned, wide, update, decide]


def outcome(run, edit):
    """What became of a fault: the kind that was reported, "wrong" results, or "silent"."""
    try:
        # an operation falls back to the reference with a warning, and then for good without
        with Executed(80, edit=edit), warnings.catch_warnings():
            warnings.simplefilter("error")
            _fallback.failures.clear()
            return "silent" if run() <= 2e-6 else "wrong"
    except (Fault, RuntimeWarning) as fault:
        _fallback.failures.clear()
        return re.search("|".join(REPORTED), str(fault))[0]


def compiled(run):
    """The PTX of every kernel that a run launches, and the instructions that it reaches."""
    texts, reached, execute = [], set(), machine.Block._execute

    def recorded(block, here, mask):
        reached.add(here.text)
        execute(block, here, mask)

    with (
        mock.patch.object(machine.Block, "_execute", recorded),
        Executed(80, edit=lambda text: texts.append(text) or text),
    ):
        assert run() <= 2e-6
    return list(dict.fromkeys(texts)), reached


def planted(run, pattern, by, most=4):
    """The outcome of a fault at each of at most so many places, spread over each kernel."""
    found = Counter()
    texts, reached = compiled(run)
    for text in texts:
        hits = []
        for hit in re.finditer(pattern, text):
            start, end = text.rfind("\n", 0, hit.start()), text.index(";", hit.start())
            if " ".join(text[start:end].split()) in reached or "bar.sync" in hit[0]:
                hits.append(hit)
        for hit in hits[:: -(-len(hits) // most) or 1]:
            changed = text[: hit.start()] + hit.expand(by) + text[hit.end() :]
            found[outcome(run, replacing(text, changed))] += 1
    return found


def replacing(text, changed):
    return lambda given: changed if given == text else given


def test_nothing_is_found_where_nothing_was_planted():
    for run in RUNS:
        assert outcome(run, lambda text: text) == "silent"


def barriers_of_the_source(text):
    """The place in the PTX of each barrier that stands in the source of a kernel, by its line."""
    found, line = {}, ("", 0)
    for each in re.finditer(r"\.loc[^\n]*// (\w+\.py):(\d+)|bar\.sync[^\n]*;", text):
        line = (each[1], int(each[2])) if each[1] else line
        if not each[1] and line[0] in SOURCES:
            code = SOURCES[line[0]][line[1] - 1]
            # the compiler adds barriers of its own to an atomic operation
            if "debug_barrier" in code or "atomic_add" in code:
                key = (line[0], line[1] - ("atomic_add" in code))
                found.setdefault(key, []).append(each.span())
    return found


@pytest.mark.parametrize(
    ("run", "number", "least"), [(tiny, 2, 1), (wide, 2, 1), (update, 3, 2), (decide, 1, 1)]
)
def test_barriers_of_the_source(run, number, least):
    """Among them those without which the update raced where several threads hold a column.

    Three of them are not needed as the compiler orders the instructions today.
    """
    outcomes = {}
    for text in compiled(run)[0]:
        for line, spans in barriers_of_the_source(text).items():
            changed = text
            for start, end in reversed(spans):
                changed = changed[:start] + changed[end:]
            outcomes.setdefault(line, []).append(outcome(run, replacing(text, changed)))
    assert len(outcomes) == number
    assert sum("race" in found for found in outcomes.values()) >= least, outcomes


@pytest.mark.parametrize(("run", "least"), [(tiny, 1), (planned, 3), (wide, 3)])
def test_barriers_of_the_compiler(run, least):
    found = planted(run, r"bar\.sync[^\n]*;", "")
    assert found["race"] >= least, found
    assert not found["wrong"]


@pytest.mark.parametrize("run", [tiny, columns])
def test_an_atomic_that_releases_nothing(run):
    assert planted(run, r"acq_rel", "relaxed") == {"race": 1}


@pytest.mark.parametrize("run", RUNS)
def test_accesses_that_are_off_by_one_entry(run):
    """Some values are read twice, or are those of a neighbour."""
    found = planted(run, r"((?:ld|st)\.global[^\n;]*\[ %\w+) \+ 0 \]", r"\1 + 4 ]")
    assert sum(found.values()) >= 4 * found["silent"], found


@pytest.mark.parametrize("run", RUNS)
def test_accesses_without_their_mask(run):
    """Not every mask is needed at these sizes."""
    found = planted(run, rf"@!?%p\d+ ({GLOBAL})", r"\1")
    assert found["out of bounds"] + found["no part of the tensor"] >= 1, found


@pytest.mark.parametrize("run", RUNS)
def test_sizes_and_strides_that_are_off_by_one(run):
    found = planted(run, r"(ld\.param\.b32 \s*(%r\d+), [^\n;]*;)", r"\1 add.s32 \2, \2, 1;")
    assert sum(found.values()) > 2 * found["silent"], found


@pytest.mark.parametrize("run", [planned, update])
def test_a_launch_that_is_left_out(run):
    """What the merge reads was never written."""
    first = next(text for text in compiled(run)[0] if ".entry moments_of_segments" in text)
    start = first.index("{", first.index(".reqntid")) + 1
    changed = first[:start] + " ret;" + first[start:]
    assert outcome(run, replacing(first, changed)) == "never written"


def test_programs_that_do_the_same_work():
    for run in (tiny, planned, update):
        found = planted(run, r"(mov\.u32 \s*%r\d+), %ctaid\.x;", r"\1, 1;")
        assert found["silent"] <= 1, (run, found)  # the launch that has nothing to do


def test_a_merge_of_swapped_operands():
    found = planted(update, r"(sub\.f64 \s*%rd\d+), (%rd\d+), (%rd\d+);", r"\1, \3, \2;")
    assert found["wrong"] >= 1, found
