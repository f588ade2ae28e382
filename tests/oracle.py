"""The definitions, written out in float64 loops: what every fast path must equal."""

import math
from itertools import combinations

import numpy as np
import torch


def two_pass(feats, labels, num_classes):
    """Class moments by a float64 two-pass over the stored input."""
    x = feats.detach().to(torch.float64).numpy()
    y = labels.to(torch.int64).numpy()
    counts = np.zeros(num_classes, np.int64)
    means = np.zeros((num_classes, x.shape[1]))
    within = np.zeros(num_classes)
    for c in range(num_classes):
        rows = x[y == c]
        counts[c] = len(rows)
        if len(rows):
            # the mean of the shifted rows: a plain float64 mean is off by more than 1e-9 of the
            # spread once the class has collapsed to 1e-7
            pivot = rows[0]
            means[c] = pivot + (rows - pivot).mean(0)
            shifted = (rows - pivot) - (rows - pivot).mean(0)
            within[c] = math.fsum((shifted**2).sum(1))
    norms = np.sqrt((x**2).sum(1))
    return {
        "counts": counts,
        "means": means,
        "within_ss": within,
        "norm_sum": math.fsum(norms),
        "norm_max": norms.max(),
    }


def _present(stats):
    return [c for c, n in enumerate(stats["counts"]) if n > 0]


def _centred(stats):
    present = _present(stats)
    mean = sum(stats["means"][c] for c in present) / len(present)
    return [stats["means"][c] - mean for c in present]


def _trace_within(stats):
    return sum(stats["within_ss"]) / sum(stats["counts"])


def rnc1_max(stats):
    return _trace_within(stats) / stats["norm_max"] ** 2


def rnc1_mean(stats):
    return _trace_within(stats) / (stats["norm_sum"] / sum(stats["counts"])) ** 2


def quotient(stats):
    centred = _centred(stats)
    return _trace_within(stats) / (sum(float(m @ m) for m in centred) / len(centred))


def cdnv(stats):
    values = []
    for c, k in combinations(_present(stats), 2):
        gap = stats["means"][c] - stats["means"][k]
        spread = sum(stats["within_ss"][i] / stats["counts"][i] for i in (c, k))
        values.append(spread / (2 * float(gap @ gap)))
    return sum(values) / len(values)


def condition(stats):
    singular = np.linalg.svd(stats["means"][_present(stats)], compute_uv=False)
    return singular[0] / singular[-1]


def equinorm(stats):
    norms = [math.sqrt(float(m @ m)) for m in _centred(stats)]
    mean = sum(norms) / len(norms)
    return math.sqrt(sum((n - mean) ** 2 for n in norms) / len(norms)) / mean


def equiangular(stats):
    centred = _centred(stats)
    values = []
    for a, b in combinations(centred, 2):
        cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        values.append(abs(cosine + 1 / (len(centred) - 1)))
    return sum(values) / len(values)


def etf_error(stats):
    centred = _centred(stats)
    number = len(centred)
    gram = [[float(a @ b) for b in centred] for a in centred]
    size = math.sqrt(sum(value**2 for row in gram for value in row))
    total = 0.0
    for i in range(number):
        for j in range(number):
            etf = ((i == j) - 1 / number) / math.sqrt(number - 1)
            total += (gram[i][j] / size - etf) ** 2
    return math.sqrt(total)


# From here on twins take a case: the statistics above, and what `case` adds to them.


def case(feats, labels, num_classes, weight=None, bias=None, ood=None):
    """Statistics, the rows themselves, and the classifier, all float64."""
    found = two_pass(feats, labels, num_classes)
    found["x"] = feats.detach().to(torch.float64).numpy()
    found["y"] = labels.to(torch.int64).numpy()
    for name, tensor in (("weight", weight), ("bias", bias), ("ood", ood)):
        found[name] = None if tensor is None else tensor.to(torch.float64).numpy()
    return found


def _global_mean(stats):
    return sum(n * m for n, m in zip(stats["counts"], stats["means"], strict=True)) / sum(
        stats["counts"]
    )


def _within(stats):
    """Sigma_W."""
    total = np.zeros((stats["x"].shape[1],) * 2)
    for x, c in zip(stats["x"], stats["y"], strict=True):
        total += np.outer(x - stats["means"][c], x - stats["means"][c])
    return total / len(stats["x"])


def _between(stats):
    """Sigma_B, every class counting the same."""
    centred = _centred(stats)
    return sum(np.outer(m, m) for m in centred) / len(centred)


def _between_sample(stats):
    """Sigma_B, every sample counting the same."""
    centre = _global_mean(stats)
    total = 0.0
    for n, m in zip(stats["counts"], stats["means"], strict=True):
        total = total + n / sum(stats["counts"]) * np.outer(m - centre, m - centre)
    return total


def _pinv(matrix):
    cutoff = len(matrix) * np.finfo(np.float64).eps
    return np.linalg.pinv(matrix, rcond=cutoff, hermitian=True)


def quotient_sample(stats):
    return _trace_within(stats) / np.trace(_between_sample(stats))


def within_fraction(stats):
    return _trace_within(stats) / (_trace_within(stats) + np.trace(_between(stats)))


def within_fraction_sample(stats):
    return _trace_within(stats) / (_trace_within(stats) + np.trace(_between_sample(stats)))


def pinv(stats):
    return np.trace(_within(stats) @ _pinv(_between(stats))) / len(_present(stats))


def svd(stats):
    left, values, _ = np.linalg.svd(_between(stats))
    number = len(_present(stats))
    total = 0.0
    for r in range(min(number - 1, len(values))):
        total += left[:, r] @ _within(stats) @ left[:, r] / values[r]
    return total / number


def bounded(stats):
    between = _between(stats)
    explained = np.trace(_pinv(_within(stats) + between) @ between)
    return 1 - explained / min(len(between), len(_present(stats)) - 1)


def vci(stats):
    between = _between_sample(stats)
    explained = np.trace(_pinv(_within(stats) + between) @ between)
    return 1 - explained / np.linalg.matrix_rank(_between(stats), hermitian=True)


def cdnv_max(stats):
    return max(cdnv(_only(stats, pair)) for pair in combinations(_present(stats), 2))


def _only(stats, classes):
    """The statistics with the other classes absent."""
    counts = np.array([n if c in classes else 0 for c, n in enumerate(stats["counts"])])
    return {**stats, "counts": counts}


def _pair_values(stats, function):
    """A function of the unit centred means of every pair."""
    units = [m / math.sqrt(float(m @ m)) for m in _centred(stats)]
    return [function(u, v) for u, v in combinations(units, 2)]


def _distance(u, v):
    return math.sqrt(float((u - v) @ (u - v)))


def _cosine(u, v):
    return float(u @ v)


def _log(u, v):
    return -math.log(_distance(u, v)) if _distance(u, v) else math.inf


def _riesz(u, v):
    return 1 / _distance(u, v) if _distance(u, v) else math.inf


def over_pairs(function, reduce):
    return lambda stats: reduce(_pair_values(stats, function))


def variance(values):
    """Population variance, NaN when a value is infinite."""
    return np.var(values) if np.isfinite(values).all() else math.nan


def coherence(stats):
    return max(abs(value) for value in _pair_values(stats, _cosine))


def condition_centred(stats):
    singular = np.linalg.svd(np.array(_centred(stats)), compute_uv=False)
    return singular[0] / singular[min(len(_present(stats)) - 1, stats["means"].shape[1]) - 1]


def _structure_error(left, right):
    number = len(left)
    product = [[float(a @ b) for b in right] for a in left]
    size = math.sqrt(sum(value**2 for row in product for value in row))
    total = 0.0
    for i in range(number):
        for j in range(number):
            etf = ((i == j) - 1 / number) / math.sqrt(number - 1)
            total += (product[i][j] / size - etf) ** 2
    return math.sqrt(total)


def _rows(stats):
    return [stats["weight"][c] for c in _present(stats)]


def etf_error_raw(stats):
    means = [stats["means"][c] for c in _present(stats)]
    return _structure_error(means, means)


def etf_error_weight(stats):
    rows = _rows(stats)
    centred = [row - sum(rows) / len(rows) for row in rows]
    return _structure_error(centred, centred)


def etf_error_weight_raw(stats):
    return _structure_error(_rows(stats), _rows(stats))


def equinorm_weight(stats):
    norms = [math.sqrt(float(w @ w)) for w in _rows(stats)]
    return np.std(norms) / np.mean(norms)


def self_duality(stats):
    rows, means = np.array(_rows(stats)), np.array(_centred(stats))
    gap = rows / math.sqrt((rows**2).sum()) - means / math.sqrt((means**2).sum())
    return math.sqrt((gap**2).sum())


def self_duality_squared(stats):
    return self_duality(stats) ** 2


def cross_coherence(stats):
    return _structure_error(_rows(stats), _centred(stats))


def _dots(stats):
    return [float(w @ m) for w, m in zip(_rows(stats), _centred(stats), strict=True)]


def _similarities(stats):
    return [
        float(w @ m) / math.sqrt(float(w @ w) * float(m @ m))
        for w, m in zip(_rows(stats), _centred(stats), strict=True)
    ]


def bias_collapse(stats):
    centre = _global_mean(stats)
    values = [stats["weight"][c] @ centre + stats["bias"][c] for c in _present(stats)]
    return math.sqrt(sum(float(value) ** 2 for value in values))


def weight_sum(stats):
    total = sum(_rows(stats))
    return math.sqrt(float(total @ total) / sum(float(w @ w) for w in _rows(stats)))


def _nearest(stats, x):
    return min(_present(stats), key=lambda c: float(((x - stats["means"][c]) ** 2).sum()))


def _chosen(stats, x):
    logits = stats["weight"] @ x
    return int(np.argmax(logits if stats["bias"] is None else logits + stats["bias"]))


def _agreements(stats):
    return [_nearest(stats, x) == _chosen(stats, x) for x in stats["x"]]


def _hits(stats):
    return [_nearest(stats, x) == c for x, c in zip(stats["x"], stats["y"], strict=True)]


def by_class(stats, correct):
    return [
        np.mean([ok for ok, y in zip(correct, stats["y"], strict=True) if y == c])
        for c in _present(stats)
    ]


def ood_cosine(stats):
    outside = sum(stats["ood"]) / len(stats["ood"])
    means = [stats["means"][c] for c in _present(stats)]
    return np.mean(
        [
            abs(float(m @ outside)) / math.sqrt(float(m @ m) * float(outside @ outside))
            for m in means
        ]
    )


def _neco(stats):
    number, dim = len(_present(stats)) - 1, stats["x"].shape[1]
    if number >= dim:
        return [1.0] * len(stats["x"]), [1.0] * len(stats["ood"])
    centre = _global_mean(stats)
    _, vectors = np.linalg.eigh(np.cov((stats["x"] - centre).T, bias=True).reshape(dim, dim))
    top = vectors[:, -number:]
    return [
        [np.linalg.norm((g - centre) @ top) / np.linalg.norm(g - centre) for g in rows]
        for rows in (stats["x"], stats["ood"])
    ]


def neco_auroc(stats):
    inside, outside = _neco(stats)
    wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


def neco_fpr95(stats):
    inside, outside = _neco(stats)
    threshold = sorted(inside, reverse=True)[math.ceil(0.95 * len(inside)) - 1]
    return sum(b >= threshold for b in outside) / len(outside)


def _effective(matrix):
    singular = np.linalg.svd(matrix, compute_uv=False)
    # those whose square is lost beside the largest count as zero
    cutoff = math.sqrt(matrix.shape[1] * np.finfo(np.float64).eps) * singular[0]
    share = [s for s in singular if s > cutoff]
    return math.exp(-sum(s / sum(share) * math.log(s / sum(share)) for s in share))


def _participation(covariance):
    return np.trace(covariance) ** 2 / (covariance**2).sum()


def _stable(matrix):
    return (matrix**2).sum() / np.linalg.norm(matrix, 2) ** 2


def _bound(stats, variance):
    weight, bias = stats["weight"], stats["bias"]
    bias = np.zeros(len(weight)) if bias is None else bias
    total = 0.0
    for c in _present(stats):
        rows = stats["x"][stats["y"] == c] - stats["means"][c]
        for k in range(len(weight)):
            if k == c:
                continue
            normal = weight[c] - weight[k]
            length = math.sqrt(float(normal @ normal))
            margin = (float(normal @ stats["means"][c]) + bias[c] - bias[k]) / length
            spread = variance(rows, normal / length)
            term = 1.0 if margin <= 0 else 1 / (1 + margin**2 / spread) if spread else 0.0
            total += len(rows) / len(stats["x"]) * term
    return total


def generalization(stats):
    return _bound(stats, lambda rows, normal: float(((rows @ normal) ** 2).mean()))


def generalization_trace(stats):
    return _bound(stats, lambda rows, normal: float((rows**2).sum() / len(rows)))


TWINS = {
    "rnc1.max": rnc1_max,
    "rnc1.mean": rnc1_mean,
    "nc1.quotient": quotient,
    "nc1.cdnv": cdnv,
    "nc2.condition": condition,
    "nc2.equinorm": equinorm,
    "nc2.equiangular": equiangular,
    "nc2.etf_error": etf_error,
    "nc1.quotient_sample": quotient_sample,
    "nc1.within_fraction": within_fraction,
    "nc1.within_fraction_sample": within_fraction_sample,
    "nc1.pinv": pinv,
    "nc1.svd": svd,
    "nc1.bounded": bounded,
    "nc1.vci": vci,
    "nc1.cdnv_max": cdnv_max,
    "nc2.coherence": coherence,
    "nc2.distance": over_pairs(_distance, np.mean),
    "nc2.distance_var": over_pairs(_distance, np.var),
    "nc2.log_energy": over_pairs(_log, np.mean),
    "nc2.log_energy_var": over_pairs(_log, variance),
    "nc2.riesz_energy": over_pairs(_riesz, np.mean),
    "nc2.riesz_energy_var": over_pairs(_riesz, variance),
    "nc2.cosine_mean": over_pairs(_cosine, np.mean),
    "nc2.cosine_std": over_pairs(_cosine, np.std),
    "nc2.condition_centred": condition_centred,
    "nc2.equinorm_weight": equinorm_weight,
    "nc2.etf_error_raw": etf_error_raw,
    "nc2.etf_error_weight": etf_error_weight,
    "nc2.etf_error_weight_raw": etf_error_weight_raw,
    "nc3.self_duality": self_duality,
    "nc3.self_duality_squared": self_duality_squared,
    "nc3.cross_coherence": cross_coherence,
    "nc3.cosine": lambda stats: np.mean(_similarities(stats)),
    "nc3.uniform_duality": lambda stats: np.var(_dots(stats), ddof=1),
    "nc3.uniform_duality_cosine": lambda stats: np.var(_similarities(stats), ddof=1),
    "nc3.bias_collapse": bias_collapse,
    "nc3.weight_sum": weight_sum,
    "nc4.agreement": lambda stats: np.mean(_agreements(stats)),
    "nc4.agreement_class": lambda stats: np.mean(by_class(stats, _agreements(stats))),
    "nc4.ncc_accuracy": lambda stats: np.mean(_hits(stats)),
    "nc4.ncc_accuracy_class": lambda stats: np.mean(by_class(stats, _hits(stats))),
    "nc5.ood_cosine": ood_cosine,
    "nc5.neco_auroc": neco_auroc,
    "nc5.neco_fpr95": neco_fpr95,
    "rank.effective": lambda stats: _effective(stats["x"]),
    "rank.effective_means": lambda stats: _effective(np.array(_centred(stats))),
    "rank.participation": lambda stats: _participation(_within(stats) + _between_sample(stats)),
    "rank.participation_means": lambda stats: _participation(_between(stats)),
    "rank.stable": lambda stats: _stable(stats["x"]),
    "rank.stable_means": lambda stats: _stable(np.array(_centred(stats))),
    "bound.generalization": generalization,
    "bound.generalization_trace": generalization_trace,
}
