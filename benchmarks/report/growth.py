"""Tables of scaling, streaming and the projection in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ncfast.benchmarks.report import text
from ncfast.benchmarks.scaling import CLASS_MOMENTS, READ, RNC1, seconds_of
from ncfast.benchmarks.table import duration

Report = Mapping[str, Any]


def exponents(report: Report) -> str:
    """The slope of each axis, by number of threads."""
    names = (CLASS_MOMENTS, RNC1, READ)
    rows = []
    for series in report["scaling"]:
        axis = series["axis"]
        ends = [point["case"][axis] for point in series["points"]]
        found = series["exponents"]
        slopes = [f"{found[name]:.2f}" if name in found else "" for name in names]
        rows.append([axis, str(series["threads"]), f"{min(ends):,} to {max(ends):,}", *slopes])
    return text.table(["axis", "threads", "sizes", *(f"`{name}`" for name in names)], rows)


def limits(report: Report) -> str:
    """The measured limits of the machine."""
    found = report["ceilings"]
    rows = [
        [count, *(f"{best[key] / 1e9:.1f}" for key in keys)]
        for keys in [("read_bytes_per_s", "copy_bytes_per_s", "gather_bytes_per_s",
                      "gemm_flops_per_s")]
        for count, best in (found.get("by_threads") or {"GPU": found.get("cuda", {})}).items()
        if best
    ]  # fmt: skip
    titles = ["threads", "read, GB/s", "copy, GB/s", "gather of 2 KiB rows, GB/s"]
    return text.table([*titles, "float32 product, GFLOP/s"], rows)


def points(series: Report) -> str:
    """All points of one axis at one number of threads."""
    rows = []
    for point in series["points"]:
        found = {name: seconds_of(point, name) for name in (CLASS_MOMENTS, RNC1, READ)}
        mine, read = found[CLASS_MOMENTS], found[READ]
        worst = max(
            (r["error"] for r in point["results"] if r["kind"] == "ncfast" and r.get("error")),
            default=0.0,
        )
        rows.append(
            [
                text.case({k: v for k, v in point["case"].items() if k != "dtype"}),
                *("wrong" if value is None else duration(value) for value in found.values()),
                f"{mine / read:.2f}" if mine and read else "",
                f"{point['bytes'] / mine / 1e9:.1f}" if mine else "",
                text.error(worst),
            ]
        )
    titles = ["case", f"`{CLASS_MOMENTS}`", f"`{RNC1}`", READ]
    return text.table([*titles, "times the read", "GB/s", "largest error"], rows)


def thread_gain(report: Report) -> str:
    """Time with one thread over time with more, at the largest point of each axis."""
    rows = []
    for axis in dict.fromkeys(series["axis"] for series in report["scaling"]):
        series = {s["threads"]: s for s in report["scaling"] if s["axis"] == axis}
        if 1 not in series:
            continue
        for threads in sorted(series)[1:]:
            pair = [series[count]["points"][-1] for count in (1, threads)]
            cells = []
            for name in (CLASS_MOMENTS, RNC1, READ):
                one, more = (seconds_of(point, name) for point in pair)
                cells.append(f"{one / more:.2f}" if one and more else "")
            sizes = {k: v for k, v in pair[0]["case"].items() if k in "NDK"}
            rows.append([text.case(sizes), str(threads), *cells])
    names = (f"`{CLASS_MOMENTS}`", f"`{RNC1}`", READ)
    return text.table(["largest point", "threads", *names], rows)


def streaming(report: Report) -> str:
    """One file larger than memory."""
    found = report["streaming"]
    share = found["file_bytes"] / found["memory_bytes"]
    memory = found["anonymous_mib"]
    shape = f"{found['rows']:,} x {found['dim']} float32 in {found['classes']} classes"
    rows = [
        ["features", f"{shape}, {text.size(found['file_bytes'])}"],
        [
            "memory of the machine",
            f"{text.size(found['memory_bytes'])}: the file is {share:.2f} of it",
        ],
        ["chunk", text.size(found["chunk_bytes"])],
        *(
            [what, f"{duration(found['seconds'][name])}, {found['gb_per_s'][name]:.2f} GB/s"]
            for name, what in (
                ("read", "plain read from a cold disk"),
                ("moments", "class moments"),
            )
        ),
        [
            "anonymous memory of the process",
            f"{memory['first']} MiB at the start, {memory['last']} at the end, "
            f"{memory['peak']} at most",
        ],
        *(
            [f"error of {what} against float64", text.error(found["error"][name])]
            for name, what in (("within_ss", "Tr(Sigma_W)"), ("means", "the means"))
        ),
        [
            f"the first {found['subset_rows']:,} rows, streamed against whole",
            text.error(found["subset_difference"]),
        ],
    ]
    return text.table(["", ""], rows, 2)


def projection(report: Report) -> str:
    """Bytes and seconds of combining the states of many ranks, computed and not measured."""
    links = list(report["links_bytes_per_s"])
    rows = []
    for line in report["projection"]:
        seconds = [duration(line["seconds"][name]) for name in links]
        row = [f"{line[key]:,}" for key in ("classes", "dim", "ranks")]
        row += [text.size(line["state_bytes"]), line["way"], text.size(line["received_bytes"])]
        row += [*seconds, text.size(line["gather_bytes"])]
        row.append(f"{line['tree_steps']} x {text.size(line['tree_step_bytes'])}")
        rows.append(row)
    titles = ["K", "D", "ranks", "state", "how", "a rank receives", *links]
    return text.table([*titles, "by one gather instead", "by a tree instead"], rows, 0)
