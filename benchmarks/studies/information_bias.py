"""Measures the bias of the estimators by true value and dimension, and draws it.

    python benchmarks/studies/information_bias.py

Writes docs/images/information-bias.png and benchmarks/results/information_bias.json.
"""

import math
import warnings

import matplotlib as mpl
import torch

import ncfast
from ncfast.benchmarks import results_file
from ncfast.benchmarks.report import text
from ncfast.information.caveats import gaussian_bias

mpl.use("Agg")
import matplotlib.pyplot as plt

COUNT, K, REPEATS = 5000, 5, 2
TRUTHS = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
DIMS = [1, 2, 5, 10]
ENTROPY_DIMS = [1, 2, 3, 5, 8, 10, 15, 20, 30]


def gaussians(truth, dim, seed):
    rho = math.sqrt(1 - math.exp(-2 * truth / dim))
    draw = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, COUNT, dim, generator=draw, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def information(method, truth, dim):
    def one(seed):
        x, y = gaussians(truth, dim, seed)
        return ncfast.mutual_information(x, y, k=K, method=method, stderr=False).value

    return mean(one(seed) for seed in range(REPEATS))


def channel(truth, dim):
    """The same pair as a channel y = x + noise, with a single class."""
    if truth == 0:
        return 0.0

    def one(seed):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(COUNT, dim, generator=draw, dtype=torch.float64)
        top = float(torch.linalg.vector_norm(x, dim=1).max())
        sigma = 1 / math.sqrt(math.exp(2 * truth / dim) - 1) / top
        labels = torch.zeros(COUNT, dtype=torch.int64)
        return ncfast.superfluous_information(x, labels, x, sigma=sigma, k=K, stderr=False).value

    return mean(one(seed) for seed in range(REPEATS))


def entropy_bias(dim):
    def one(seed):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(COUNT, dim, generator=draw, dtype=torch.float64)
        truth = dim / 2 * math.log(2 * math.pi * math.e)
        return ncfast.entropy(x, k=K, stderr=False).value - truth

    return mean(one(seed) for seed in range(REPEATS))


def measure():
    methods = {"ksg": "KSG", "kl": "three entropies", "channel": "channel"}
    found = {"count": COUNT, "k": K, "repeats": REPEATS, "truths": TRUTHS}
    for name in methods:
        found[name] = {
            dim: [
                channel(t, dim) if name == "channel" else information(name, t, dim) for t in TRUTHS
            ]
            for dim in DIMS
        }
    found["entropy"] = {
        "dims": ENTROPY_DIMS,
        "measured": [entropy_bias(dim) for dim in ENTROPY_DIMS],
        "theory": [gaussian_bias(COUNT, K, dim) for dim in ENTROPY_DIMS],
    }
    return found, methods


def figure(found, methods):
    fig, axes = plt.subplots(1, 4, figsize=(14, 3.8), constrained_layout=True)
    for axis, (name, title) in zip(axes, methods.items(), strict=False):
        axis.plot(TRUTHS, TRUTHS, color="0.6", linewidth=1, label="true")
        for colour, dim in zip(("C0", "C1", "C2", "C3"), DIMS, strict=True):
            axis.plot(TRUTHS, found[name][dim], "o-", ms=3.5, color=colour, label=f"{dim} + {dim}")
        axis.set(title=title, xlabel="true mutual information (nats)", ylim=(-1.2, 4.4))
    axes[0].set_ylabel("estimate (nats)")
    axes[0].legend(title="columns", frameon=False, fontsize=8)
    entropy = found["entropy"]
    axes[3].axhline(0, color="0.6", linewidth=1)
    axes[3].plot(entropy["dims"], entropy["theory"], "-", color="C1", label="by theory")
    axes[3].plot(entropy["dims"], entropy["measured"], "o", ms=4, color="C0", label="measured")
    axes[3].set(title="entropy of a Gaussian", xlabel="columns", ylabel="bias (nats)")
    axes[3].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(text.images() / "information-bias.png", dpi=110)


if __name__ == "__main__":
    warnings.simplefilter("ignore", ncfast.EstimateWarning)
    numbers, names = measure()
    results_file.write(results_file.folder() / "information_bias.json", numbers)
    figure(numbers, names)
