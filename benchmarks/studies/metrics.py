"""The full suite of collapse metrics against the public way, paired and interleaved.

    python benchmarks/studies/metrics.py --classes 100 --rounds 5
    python benchmarks/studies/metrics.py --classes 10000 --parts moments decisions   # merged

Contestants: ours; the public way (plain/metrics_public.py) in float32 and in float64; whole
matrices (plain/metrics_matrices.py) in float32. The numbers are compared before a time is kept;
ours are held to float64 by the tests. Each round times every contestant once, in alternating
order. With --parts those parts of the public float32 way are timed beside one run of ours and
merged into the file: the whole is the sum of its parts, for runs too long for a quiet machine.
Features are "separated" (standard deviation 0.5 around random means) or "mixed" (2.0, where few
decisions can be read off the class means).
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

import ncfast
from ncfast.benchmarks import results_file
from ncfast.benchmarks.plain.metrics_matrices import matrices
from ncfast.benchmarks.plain.metrics_public import PARTS, prepared, public

RESULTS = results_file.folder() / "metrics_cpu.json"
COUNT, DIM = 50_000, 512
SPREADS = {"separated": 0.5, "mixed": 2.0}
ALLOWED = {"public64": 1e-6, "public": 1e-2, "matrices": 1e-2}


def data(num_classes, spread=0.5):
    """Features, labels, classifier and foreign features, float32."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, DIM, generator=generator)
    labels = torch.randint(num_classes, (COUNT,), generator=generator)
    labels[:num_classes] = torch.arange(num_classes)
    feats = means[labels] + spread * torch.randn(COUNT, DIM, generator=generator)
    weight = means + 0.1 * torch.randn(num_classes, DIM, generator=generator)
    bias = torch.randn(num_classes, generator=generator)
    ood = torch.randn(2000, DIM, generator=generator)
    return feats, labels, weight, bias, ood


def ours(feats, labels, weight, bias, ood):
    """Everything `collapse_metrics` knows."""
    return ncfast.collapse_metrics(feats, labels, weight=weight, bias=bias, ood_feats=ood)


def public64(*inputs):
    """The public way in float64: what it takes to get these numbers of a collapsed network."""
    return public(*(t.double() if t.is_floating_point() else t for t in inputs))


CONTESTANTS = {"ours": ours, "public64": public64, "public": public, "matrices": matrices}


def check(name, found, expected):
    """Largest relative difference from ours, and in which metric; exits if they disagree."""
    difference = {
        metric: abs(float(value) - float(expected[metric]))
        / max(abs(float(expected[metric])), 1e-3)
        for metric, value in found.items()
    }
    worst = max(difference, key=difference.get)
    print(f"{name}: {difference[worst]:.1e} in {worst}", flush=True)
    if not difference[worst] < ALLOWED[name]:
        raise SystemExit(f"{name} disagrees with ours: no timing")
    return {"in": worst, "difference": float(f"{difference[worst]:.1e}")}


def timed(function, *arguments):
    """Its result, seconds, and peak resident memory in MiB beyond what was there before."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _high_water()
    start = time.perf_counter()
    result = function(*arguments)
    return result, round(time.perf_counter() - start, 4), _high_water() - before


def _high_water():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def run_rounds(names, inputs, rounds, entry):
    """Every contestant once a round; the first round warms up, and its numbers are compared."""
    for number in range(rounds + 1):
        order = names if number % 2 else names[::-1]
        found = {name: timed(CONTESTANTS[name], *inputs) for name in order}
        print(f"round {number}:", {name: result[1] for name, result in found.items()}, flush=True)
        if number == 0:
            expected = found["ours"][0]
            entry["differs_from_ours"] = {
                name: check(name, found[name][0], expected) for name in names if name != "ours"
            }
            entry["peak_mib_beyond_inputs"] = {name: found[name][2] for name in names}
            entry["seconds"] = {name: [] for name in names}
            continue
        for name in names:
            entry["seconds"][name].append(found[name][1])
    entry["times_faster_than"] = {
        name: [round(a / b, 2) for a, b in zip(s, entry["seconds"]["ours"], strict=True)]
        for name, s in entry["seconds"].items()
        if name != "ours"
    }


def run_parts(names, inputs, entry):
    """Ours once, then those parts of the public way; merged into what earlier calls found."""
    values, seconds, peak = timed(ours, *inputs)
    print("ours:", seconds, flush=True)
    entry.setdefault("ours_seconds", []).append(seconds)
    memory = entry.setdefault("peak_mib_beyond_inputs", {"ours": 0, "public": 0})
    memory["ours"] = max(memory["ours"], peak)
    state = prepared(*inputs)
    for name in names:
        out = {}
        _, seconds, peak = timed(PARTS[name], state, out)
        print(f"{name}: {seconds} s", flush=True)
        out = _whole_bounds(name, out, entry)
        if out:
            entry.setdefault("differs_from_ours", {})[name] = check("public", out, values)
        entry.setdefault("public_seconds", {}).setdefault(name, []).append(seconds)
        memory["public"] = max(memory["public"], peak)
    if set(entry["public_seconds"]) == set(PARTS):
        whole = sum(statistics.median(s) for s in entry["public_seconds"].values())
        ratio = whole / statistics.median(entry["ours_seconds"])
        entry["times_faster_than"] = {"public": [round(ratio, 2)]}


def run_accuracy(num_classes, entry):
    """NC1 and RNC1 of the public way against ours as the classes collapse; nothing is timed."""
    for spread in (0.5, 1e-2, 1e-4, 1e-6):
        inputs = data(num_classes, spread)
        expected = ours(*inputs)
        for name in ("public64", "public"):
            found = CONTESTANTS[name](*inputs)
            entry.setdefault(f"std {spread:g}", {})[name] = {
                metric: float(f"{abs(float(found[metric]) / float(expected[metric]) - 1):.1e}")
                for metric in ("rnc1.max", "nc1.pinv", "nc1.cdnv")
            }


def _whole_bounds(name, out, entry):
    """The bounds come in halves, which mean nothing alone; anything else as it is."""
    if "bounds" not in name:
        return out
    halves = entry.setdefault("halves_of_the_bounds", {})
    halves[name] = {metric: float(value) for metric, value in out.items()}
    if len(halves) < 2:
        return {}
    return {metric: sum(half[metric] for half in halves.values()) for metric in out}


def _results():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--features", choices=SPREADS, default="separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], choices=list(CONTESTANTS)[1:])
    parser.add_argument("--parts", nargs="*", choices=PARTS)
    parser.add_argument("--accuracy", action="store_true", help="differences under collapse alone")
    parser.add_argument("--restart", action="store_true", help="forget the parts found before")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    inputs = data(arguments.classes, SPREADS[arguments.features])
    key = f"N={COUNT} D={DIM} K={arguments.classes} {arguments.features}"
    merge = arguments.parts is not None and not arguments.restart
    entry = _results().get(key, {}) if merge else {}
    if arguments.accuracy:
        run_accuracy(arguments.classes, entry)
        key = f"N={COUNT} D={DIM} K={arguments.classes} relative difference from ours"
    elif arguments.parts is None:
        names = [name for name in CONTESTANTS if name not in arguments.without]
        run_rounds(names, inputs, arguments.rounds, entry)
    else:
        run_parts(arguments.parts, inputs, entry)
    entry["metrics"] = len(ncfast.metrics.registry.CATALOGUE)
    entry["threads"] = arguments.threads
    entry["torch"], entry["machine"] = torch.__version__, platform.machine()
    results = _results()  # another run may have written meanwhile
    results[key] = entry
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
