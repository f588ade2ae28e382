"""Estimates the information of discrete, mixed and rounded columns with known truth.

    OMP_NUM_THREADS=1 nice python benchmarks/studies/information_ties.py      # 3 minutes

Every pair and triple of `ncfast.benchmarks.tied_information` is drawn 20 times with N = 2,000 and
estimated with default options. Writes benchmarks/results/information_ties.json and a table of
docs/information.md.
"""

import argparse
import json
import warnings

import numpy as np
import torch

import ncfast
from ncfast.benchmarks import results_file
from ncfast.benchmarks.report import text
from ncfast.benchmarks.tied_information import PAIRS, TRIPLES

RESULTS = results_file.folder() / "information_ties.json"
COUNT = 2000


def measure(function, name, case, draws):
    truth, draw = case
    found = [function(*draw(np.random.default_rng(seed), COUNT)) for seed in range(draws)]
    values, errors = (np.array([getattr(one, n) for one in found]) for n in ("value", "stderr"))
    return {
        "function": function.__name__,
        "case": name,
        "truth": float(truth),
        "mean": float(values.mean()),
        "spread": float(values.std(ddof=1)),
        "stderr": float(errors.mean()),
        "within": float((np.abs(values - truth) <= 3 * errors + 1e-12).mean()),
        "method": ", ".join(sorted({one.method for one in found})),
    }


def run(draws):
    rows = []
    for function, cases in (
        (ncfast.mutual_information, PAIRS),
        (ncfast.conditional_mutual_information, TRIPLES),
    ):
        for name, case in cases.items():
            rows.append(measure(function, name, case, draws))
            print(*(rows[-1][n] for n in ("case", "truth", "mean", "within", "method")), sep="  ")
    found = {"N": COUNT, "k": 5, "draws": draws, "cases": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def table(found):
    rows = found["cases"]
    worst = max(rows, key=lambda row: abs(row["mean"] - row["truth"]))
    head = (
        f"{len(rows)} kinds, N = {found['N']:,}, k = {found['k']}, {found['draws']} draws each. "
        f"Largest difference between the mean and the truth: "
        f"{worst['mean'] - worst['truth']:+.3f} nats ({worst['case']}). "
        f"Smallest share of draws within 3 stderr: {min(row['within'] for row in rows):.0%}."
    )
    numbers = ("truth", "mean", "spread", "stderr")
    cells = [
        [
            ("" if row["function"] == "mutual_information" else "I(X;Y\\|Z): ") + row["case"],
            *(f"{row[name]:.3f}".replace("-0.000", "0.000") for name in numbers),
            f"{row['within']:.0%}",
            row["method"],
        ]
        for row in rows
    ]
    whole = text.table(["", *numbers, "within 3 stderr", "method"], cells, 1, 6)
    return f"{head}\n\n{text.folded('All kinds', whole)}"


def page():
    text.publish("information.md", "equal values", table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--page", action="store_true", help="only the table")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", ncfast.EstimateWarning)
    torch.set_num_threads(1)
    if not asked.page:
        run(asked.draws)
    page()
