"""Texts of the page on reliability: what is tried, and how to read its tables."""

HEAD = """# Reliability

What happens to numbers, records and trainings when something goes wrong? This page
states what is promised, how often it was tried, and what was lost. `python -m
ncfast.benchmarks.reliability.page` writes it from
`benchmarks/results/reliability.json`.

## What is promised, and what was lost"""

KILLS = """## Kills

Each run is killed with SIGKILL at moments spread evenly over the CPU time that an
undisturbed run takes, from the start of the process to its end. Then it goes on: a
training and a sweep with `--resume`, the tracked loop from its own last save. Where a
run was killed before its first checkpoint, `--resume` says so, and the run is deleted
and started again, as the error says. At the end the records, the probes and the weights
are compared with those of the undisturbed run, bit by bit. The records of the tracked
loop are the last ones of each step. Before it goes on, its logs (JSONL and CSV) must
hold every record up to the last `flush`, without a gap and without a torn line."""

DISK = """## Full disks

The limit of file sizes (RLIMIT_FSIZE) makes a write fail after a part of it, as on a
full disk; `/dev/full` refuses every write. A training ends with an error that names the
file; with room again it goes on to the same bits. A `Tracker` warns, drops the log, and
lets the user's training go on; the log holds whole records from the first one on."""

CALLS = """## Fuzzed calls

Random shapes (N = 1, K > D, one column, absent classes, one class), all dtypes, layouts
(transposed, strided, not aligned, read-only arrays, negative strides, torch's negative
bit), collapsed, equal and duplicated rows, offsets and scales. Class moments are
compared with long double, ids of the catalogue with the float64 loops of
`tests/oracle`, streams with the formulas of [tracking.md](tracking.md), estimates of
information with their formulas in long double. "left open" counts calls in which all
ids were skipped because rounding decides them: all rows equal, or two classes with
equal means (see [accuracy.md](accuracy.md)). A call with a wrong argument must raise an
error that names the argument, or be right."""

RANKS = """## Ranks

gloo groups on one machine. Every rank must get the right numbers, or an error that
names the cause on every rank that lives, and must keep its own records. No rank may
abort or hang. The cases: {cases}."""

FILES = """## Damaged files

Bytes that are cut, flipped, deleted, doubled and inserted; JSON entries of another
type, size, name or number; tensors of another shape, dtype or value; and directories,
pipes, devices and broken links in place of the file. A reader must refuse in one line
that names the file, or return what the undamaged file holds. Logs and data without a
checksum may be read as other numbers."""

SOAK = """## A long run

One process tracks {steps:,} steps of a small network with the default metrics into a
JSONL log. Every record is read back: none is missing, and those of equal batches are
equal."""

RERUN = """## Rerun it

```console
$ bash benchmarks/reliability.sh                # everything
$ bash benchmarks/reliability.sh --quick        # the form of CI
$ bash benchmarks/reliability.sh kills calls    # some of it
$ python -m ncfast.benchmarks.reliability.page  # this page
```

It needs Linux and a checkout with the development set-up. The status is 1 if anything
was lost or wrong."""
