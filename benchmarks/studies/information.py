"""Entropy, mutual information and the information plane against plain recipes, paired.

    python benchmarks/studies/information.py ksg-1 ksg-2      # KSG of 1 + 1 and 2 + 2 columns
    python benchmarks/studies/information.py ksg-5 entropy-2 entropy-10 plane

The recipes are what public packages do, in plain SciPy and scikit-learn calls: a tree for the joint
space, then counts by a tree in each block. Ours must give their number before anything is timed.
Each round runs everything once; the least time of the rounds counts. Results are merged into
benchmarks/results/information.json: on a shared CPU only ratios mean anything.
"""

import argparse
import json
import math
import platform
import time

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from sklearn.decomposition import PCA
from sklearn.neighbors import KDTree, NearestNeighbors

import ncfast
from ncfast.benchmarks import results_file

RESULTS = results_file.folder() / "information.json"
COUNT, K, RHO = 20_000, 5, 0.9


def pair(dim):
    x, noise = torch.randn(2, COUNT, dim, generator=draw(), dtype=torch.float64)
    return x, RHO * x + math.sqrt(1 - RHO**2) * noise


def draw(seed=1):
    return torch.Generator().manual_seed(seed)


def ksg_scipy(x, y):
    """cKDTree for the joint space and for the counts."""
    radius = cKDTree(np.hstack((x, y))).query(np.hstack((x, y)), K + 1, p=np.inf, workers=-1)[0]
    inside = np.nextafter(radius[:, -1], 0)
    counts = [
        cKDTree(block).query_ball_point(block, inside, p=np.inf, workers=-1, return_length=True)
        for block in (x, y)
    ]
    return digamma(K) + digamma(len(x)) - sum(digamma(count).mean() for count in counts)


def ksg_sklearn(x, y):
    """A KDTree of scikit-learn for both, which counts faster in many dimensions."""
    joint = np.hstack((x, y))
    radius = KDTree(joint, metric="chebyshev").query(joint, K + 1)[0][:, -1]
    inside = np.nextafter(radius, 0)
    counts = [
        KDTree(block, metric="chebyshev").query_radius(block, inside, count_only=True)
        for block in (x, y)
    ]
    return digamma(K) + digamma(len(x)) - sum(digamma(count).mean() for count in counts)


def kl(radius, dim):
    ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    return digamma(len(radius)) - digamma(K) + ball + dim * np.log(radius).mean()


def entropy_scipy(x):
    return kl(cKDTree(x).query(x, K + 1, workers=-1)[0][:, -1], x.shape[1])


def entropy_sklearn(x):
    """Brute force by matrix products, which is best in many dimensions."""
    found = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(x)
    return kl(found.kneighbors(x)[0][:, -1], x.shape[1])


def ksg_case(dim, rounds):
    x, y = pair(dim)
    one, two = x.numpy(), y.numpy()
    options = {"preprocess": None, "k": K}

    def ours(metric, stderr):
        return ncfast.mutual_information(x, y, metric=metric, stderr=stderr, **options).value

    calls = {
        "ours linf": lambda: ours("linf", False),
        "ours l2max": lambda: ours("l2max", False),
        "ours linf with standard error": lambda: ours("linf", True),
        "scikit-learn KDTree": lambda: ksg_sklearn(one, two),
    }
    if dim <= 5:  # beyond it takes most of a minute and is never the fastest
        calls["scipy cKDTree"] = lambda: ksg_scipy(one, two)
    found = {"dims": [dim, dim], "count": COUNT, "true": -dim / 2 * math.log(1 - RHO**2)}
    return found | timed(calls, rounds, same=("ours linf", "scikit-learn KDTree"))


def entropy_case(dim, rounds):
    x = torch.randn(COUNT, dim, generator=draw(), dtype=torch.float64)
    calls = {
        "ours": lambda: ncfast.entropy(x, k=K, stderr=False).value,
        "ours with standard error": lambda: ncfast.entropy(x, k=K).value,
        "scikit-learn brute": lambda: entropy_sklearn(x.numpy()),
    }
    if dim <= 10:
        calls["scipy cKDTree"] = lambda: entropy_scipy(x.numpy())
    truth = dim / 2 * math.log(2 * math.pi * math.e)
    found = {"dims": [dim], "count": COUNT, "true": truth}
    return found | timed(calls, rounds, same=("ours", "scikit-learn brute"))


def plane_case(rounds):
    """10,000 samples, inputs of 784 columns, features of 200, codes of 4 and 4."""
    count, classes = 10_000, 10
    labels = torch.arange(count) % classes
    hidden = torch.randn(count, 20, generator=draw(2))
    means = torch.randn(classes, 784, generator=draw(3))
    inputs = means[labels] + hidden @ torch.randn(20, 784, generator=draw(4)) / 4
    inputs += 0.3 * torch.randn(count, 784, generator=draw(5))
    feats = (inputs @ torch.randn(784, 200, generator=draw(6)) / 28).relu()
    planes = {
        name: ncfast.InformationPlane(inputs, labels, method=method, stderr=stderr)
        for name, method, stderr in (
            ("ours ksg", "ksg", False),
            ("ours ksg with standard errors", "ksg", True),
            ("ours channel with standard errors", "channel", True),
            ("ours three entropies with standard errors", "kl", True),
        )
    }
    code = PCA(4).fit_transform(inputs.numpy())

    def plain():
        """The components of Z again at every log point, and three entropies by trees."""
        z = PCA(4).fit_transform(feats.numpy())
        x, z = (rows / rows.std(0) for rows in (code, z))
        return entropy_scipy(x) + entropy_scipy(z) - entropy_scipy(np.hstack((x, z)))

    calls = {name: lambda plane=plane: plane(feats).inputs.value for name, plane in planes.items()}
    calls["plain: PCA and three entropies, I(Z;X) alone"] = plain
    found = {"dims": [4, 4], "count": count, "columns": [784, 200]}
    return found | timed(calls, rounds)


def timed(calls, rounds, same=()):
    """Values, least seconds, and how far the values that should be the same are apart."""
    values = {name: float(call()) for name, call in calls.items()}  # also the warm-up
    if same:
        apart = abs(values[same[0]] - values[same[1]])
        assert apart < 1e-9, f"not the same number: {apart}"
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    rows = {n: {"seconds": round(min(s), 4), "value": values[n]} for n, s in seconds.items()}
    return {"rounds": rounds, "results": rows}


CASES = {f"ksg-{dim}": lambda rounds, dim=dim: ksg_case(dim, rounds) for dim in (1, 2, 5, 10)}
CASES |= {
    f"entropy-{dim}": lambda rounds, dim=dim: entropy_case(dim, rounds) for dim in (2, 5, 10, 20)
}
CASES["plane"] = plane_case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    for name in asked.cases:
        results[name] = CASES[name](asked.rounds)
        print(name)
        for call, row in results[name]["results"].items():
            print(f"  {call:48s} {row['seconds']:8.4f} s  {row['value']:.4f}")
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore", ncfast.EstimateWarning)
    main()
