"""Compares ncfast with four public packages on inputs of known information.

    pip install ncfast[bench]
    python benchmarks/studies/information_rivals.py

Estimators by neighbours have been reported to fail on these inputs: ties, counts, zeros, roundings,
repeated rows, offsets, heavy tails, many columns. Every package is called with k = 5 and its
defaults. Writes benchmarks/results/information_rivals.json and a table of docs/information.md.
"""

import json
import math
import warnings
from functools import partial
from importlib.metadata import version

import numpy as np
import torch

import ncfast
from ncfast.benchmarks import known_information, results_file
from ncfast.benchmarks.plain import packages
from ncfast.benchmarks.report import text

K = 5


def pair(rng, rho, count=2000):
    x, noise = rng.standard_normal((2, count))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def gaussian(rho, pairs=1):
    return abs(pairs / 2 * math.log(1 - rho**2))


def entropy_of(shares):
    shares = np.asarray(shares)
    shares = shares[shares > 0]
    return -float((shares * np.log(shares)).sum())


def rounded(step, rho):
    """Information of a Gaussian pair after rounding, by its cell probabilities."""
    from scipy.stats import multivariate_normal, norm

    edges = np.arange(-6 - step / 2, 6 + step, step)
    if len(edges) > 120:  # finer cells lose less than 0.003 nats
        return gaussian(rho)
    normal = multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    grid = np.stack(np.meshgrid(edges, edges, indexing="ij"), -1)
    cells = np.diff(np.diff(normal.cdf(grid), axis=0), axis=1).clip(0)
    margin = np.diff(norm.cdf(edges))
    return max(0.0, 2 * entropy_of(margin) - entropy_of(cells.ravel()))


def cases():
    """(name, truth, blocks): x and y, or x, y and z."""
    rng = np.random.default_rng(0)
    yield "dice, independent", 0.0, tuple(rng.integers(0, 6, (2, 2000)))
    dice = rng.integers(0, 6, 2000)
    yield "dice, identical", math.log(6), (dice, dice)
    for rate in (2, 10, 100):
        yield f"Poisson({rate}), independent", 0.0, tuple(rng.poisson(rate, (2, 2000)))
    yield "two constants", 0.0, (np.ones(500), np.ones(500))
    for rho in (0.0, 0.6):
        for step in (0.5, 0.1, 0.05, 0.01):
            x, y = pair(rng, rho)
            blocks = ((x / step).round() * step, (y / step).round() * step)
            yield f"rounded to {step}, ρ = {rho}", rounded(step, rho), blocks
    x, y = pair(rng, 0.0)
    yield "ReLU, independent", 0.0, (np.maximum(x, 0), np.maximum(y, 0))
    x, y = pair(rng, 0.6)
    to_half = torch.bfloat16
    halves = (torch.tensor(x).to(to_half).double(), torch.tensor(y).to(to_half).double())
    yield "bfloat16, ρ = 0.6", gaussian(0.6), tuple(half.numpy() for half in halves)
    x, y = pair(rng, 0.6)
    yield (
        "float32 + 1e6, ρ = 0.6",
        rounded(0.0625, 0.6),
        ((x + 1e6).astype("f4"), (y + 1e6).astype("f4")),
    )
    x, y = pair(rng, 0.6)
    yield "every row twice, ρ = 0.6", gaussian(0.6), (np.tile(x[:1000], 2), np.tile(y[:1000], 2))
    x, y = pair(rng, 0.6)
    yield "scale 1e-165, ρ = 0.6", gaussian(0.6), (1e-165 * x, 1e-165 * y)
    x, y = pair(rng, 0.6)
    yield "lognormal tails, σ = 5", gaussian(0.6), (np.exp(5 * x), np.exp(5 * y))
    named = {task.name: task for task in known_information.everything()}
    for name, count in (
        ("Student 1+1, dof 1", 2000),
        ("Student 3+3, dof 2", 2000),
        ("Gaussian 2-pair 5+5", 2000),
        ("Gaussian all pairs .5, 16+16", 300),
        ("Gaussian all pairs .5, 50+50", 900),
        ("one of 100 columns, .9", 900),
        ("spiral 2-pair 5+5", 2000),
        ("sin 20x", 2000),
    ):
        yield name, named[name].truth, named[name].sample(count, 0)
    one, two = rng.integers(0, 6, (2, 2000))
    yield "dice, dice given a coin", 0.0, (one, two, rng.integers(0, 2, 2000))
    one, two = rng.integers(0, 2, (2, 2000))
    yield "bits given their xor", math.log(2), (one, two, one ^ two)
    yield "three ReLUs", 0.0, tuple(np.maximum(rng.standard_normal((3, 2000)), 0))
    for step in (0.5, 0.1, 0.01):
        three = (rng.standard_normal((3, 2000)) / step).round() * step
        yield f"three rounded to {step}", 0.0, tuple(three)
    for dz in (5, 20):
        task = named[f"given {dz} columns, rho 0.9, 1+1"]
        yield task.name, task.truth, task.sample(2000, 0)


def ours(*blocks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ncfast.EstimateWarning)
        call = (
            ncfast.mutual_information if len(blocks) == 2 else ncfast.conditional_mutual_information
        )
        found = call(*blocks, k=K)
    return found.value, len(found.warnings)


PACKAGES = {
    "ncfast": ours,
    "scikit-learn": partial(packages.scikit_learn, k=K),
    "ennemi": partial(packages.ennemi, k=K),
    "npeet-plus": partial(packages.npeet_plus, k=K),
    "infomeasure": partial(packages.infomeasure, k=K),
}


def value_of(call, blocks):
    """Value and number of warnings of one package; what it raised in their place."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.random.seed(0)  # noqa: NPY002  noise of the packages
        try:
            found = call(*blocks)
        except NotImplementedError:
            return {"value": None, "warnings": 0, "error": "–"}
        except Exception as error:  # what others raise is part of the table
            return {"value": None, "warnings": 0, "error": type(error).__name__}
    value, told = found if isinstance(found, tuple) else (found, len(caught))
    return {"value": float(value), "warnings": told, "error": ""}


def cell(found, truth):
    if found["value"] is None:
        return found["error"]
    shown = f"{found['value']:.3f}" + ("\\*" if found["warnings"] else "")
    return f"**{shown}**" if wrong(found, truth) else shown


def wrong(found, truth):
    """Off by more than 10 % and 0.05 nats."""
    return not abs(found["value"] - truth) <= max(0.05, 0.1 * truth)


def markdown(rows):
    cells = [
        [row["case"], f"{row['truth']:.3f}"]
        + [cell(row["found"][name], row["truth"]) for name in PACKAGES]
        for row in rows
    ]
    whole = text.table(["", "truth", *PACKAGES], cells)
    return f"{overview(rows)}\n\n{text.folded('All inputs', whole)}"


def overview(rows):
    """How often each package is wrong, how often it warns then, and on how many inputs it runs."""
    ran = {name: [r for r in rows if r["found"][name]["value"] is not None] for name in PACKAGES}
    off = {name: [r for r in ran[name] if wrong(r["found"][name], r["truth"])] for name in ran}
    warned = {name: [r for r in off[name] if r["found"][name]["warnings"]] for name in off}
    lines = {"inputs": ran, "wrong": off, "wrong, with a warning": warned}
    cells = [[title, *(str(len(one[n])) for n in PACKAGES)] for title, one in lines.items()]
    return text.table(["", *PACKAGES], cells)


def main():
    torch.set_num_threads(1)
    rows = [
        {
            "case": name,
            "truth": truth,
            "found": {package: value_of(call, blocks) for package, call in PACKAGES.items()},
        }
        for name, truth, blocks in cases()
    ]
    about = {"versions": {name: version(name) for name in PACKAGES}, "k": K, "rows": rows}
    report = json.dumps(about, indent=1, ensure_ascii=False)
    (results_file.folder() / "information_rivals.json").write_text(report + "\n")
    text.publish("information.md", "other packages", markdown(rows))


if __name__ == "__main__":
    main()
