"""All metrics without ncfast: from class moments, as in public code, and from whole matrices.

`lite` and `standard` are the cheap tiers, written plainly from class moments: O(K D), and K x K
products. Every class must be present.

`public` follows the neural-collapse package (github.com/rhubarbwu/neural-collapse): two passes over
minibatches of 128 rows as its examples take them; class sums and variances as products with a
(K, B) mask; the covariance as D x D products of deviations; nearest means from inner products;
grids of pairs in tiles of 64 x 64 differences (tile_size=64 in its examples), one grid a quantity.
Metrics that it lacks follow their definitions with routines of torch: RankMe as singular values
of the features, NECO as principal components, the bounds as a loop over classes. Its checksums of
the means and its reads of single numbers are left out.

`matrices` computes the same by one-hot products, cdist, K x K and D x D: more vectorised than
public code, and less accurate in float32 than differences.

A suite is a sequence of parts. A part adds its metrics to ``out`` and what later parts need to
``state``.
"""

import math
from functools import partial

import torch

BATCH, TILE = 128, 64


def etf_error(a, b):
    """Gram matrix against the simplex ETF, K x K."""
    k = len(a)
    gram = b @ a.mT
    gram /= torch.linalg.matrix_norm(gram)
    gram += 1 / k / math.sqrt(k - 1)
    gram.diagonal().sub_(1 / math.sqrt(k - 1))
    return torch.linalg.matrix_norm(gram)


def lite(moments, w, b, ood):
    """RNC1, quotients, norms, and the duality of means and classifier.

    ``moments`` are counts, means, within-class sums of squares, sum and maximum of the row norms.
    """
    counts, means, within, norm_sum, norm_max = moments
    n, k = counts.sum(), len(means)
    share = counts.to(means.dtype) / n
    mu, centred = share @ means, means - means.mean(0)
    tw, tb = within.sum() / n, centred.square().sum() / k
    ts = ((means - mu).square().sum(1) * share).sum()
    length, weight_length = centred.norm(dim=1), w.norm(dim=1)
    similar = torch.nn.functional.cosine_similarity(w, centred)
    gap = (w / w.norm() - centred / centred.norm()).norm()
    unit = centred / length[:, None]
    return {
        "rnc1.max": tw / norm_max**2,
        "rnc1.mean": tw / (norm_sum / n) ** 2,
        "nc1.quotient": tw / tb,
        "nc1.quotient_sample": tw / ts,
        "nc1.within_fraction": tw / (tw + tb),
        "nc1.within_fraction_sample": tw / (tw + ts),
        "nc2.equinorm": length.std(correction=0) / length.mean(),
        "nc2.cosine_mean": (unit.sum(0).square().sum() - k) / (k * (k - 1)),
        "nc2.equinorm_weight": weight_length.std(correction=0) / weight_length.mean(),
        "nc3.self_duality": gap,
        "nc3.self_duality_squared": gap**2,
        "nc3.cosine": similar.mean(),
        "nc3.uniform_duality": (w * centred).sum(1).var(),
        "nc3.uniform_duality_cosine": similar.var(),
        "nc3.bias_collapse": (w @ mu + b).norm(),
        "nc3.weight_sum": w.sum(0).norm() / w.norm(),
        "nc5.ood_cosine": torch.cosine_similarity(means, ood.mean(0)[None]).abs().mean(),
    }


def standard(moments, w, b, ood):
    """The metrics of `lite`, and those from K x K products."""
    means = moments[1]
    centred, wc = means - means.mean(0), w - w.mean(0)
    unit = torch.nn.functional.normalize(centred, dim=1)
    gram = centred @ centred.mT
    return lite(moments, w, b, ood) | {
        "nc2.etf_error": etf_error(centred, centred),
        "nc2.etf_error_raw": etf_error(means, means),
        "nc2.cosine_std": over_pairs(unit @ unit.mT).std(correction=0),
        "rank.participation_means": gram.trace() ** 2 / gram.square().sum(),
        "nc2.etf_error_weight": etf_error(wc, wc),
        "nc2.etf_error_weight_raw": etf_error(w, w),
        "nc3.cross_coherence": etf_error(centred, w),
    }


def batches(x, y):
    """Minibatches in order."""
    return zip(x.split(BATCH), y.split(BATCH), strict=True)


def masked(y, k, like):
    """(K, B) mask of the classes."""
    return (y[:, None] == torch.arange(k, device=y.device)).mT.to(like.dtype)


def moments(state, out):
    """First pass: counts, means, norms. Second: covariance and variances."""
    x, y, k = state["x"], state["y"], len(state["w"])
    totals, counts, norms = x.new_zeros(k, x.shape[1]), x.new_zeros(k), []
    for rows, label in batches(x, y):
        mask = masked(label, k, x)
        counts += mask.sum(1)
        totals += mask @ rows
        norms.append(rows.norm(dim=1))
    means, norms = totals / counts[:, None], torch.cat(norms)
    within, variances = x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(k)
    for rows, label in batches(x, y):
        gap = rows - means[label]
        within += gap.mT @ gap
        variances += (masked(label, k, x) @ gap**2).sum(-1)
    add_moments(state, counts, means, variances, norms, within / len(x))


def whole_moments(state, out):
    """The same by products with the one-hot matrix."""
    x, y, k = state["x"], state["y"], len(state["w"])
    onehot = torch.nn.functional.one_hot(y, k).to(x.dtype)
    counts = onehot.sum(0)
    means = onehot.T @ x / counts[:, None]
    residual = x - onehot @ means
    squares = (onehot.T @ residual.square()).sum(1)
    add_moments(state, counts, means, squares, x.norm(dim=1), residual.T @ residual / len(x))


def add_moments(state, counts, means, squares, norms, within):
    """Keep them, and the covariances between classes."""
    share, centred = counts / counts.sum(), means - means.mean(0)
    mu = share @ means
    apart = means - mu
    state.update(counts=counts, means=means, squares=squares, norms=norms, within=within)
    state.update(share=share, centred=centred, mu=mu, variances=squares / counts)
    state["between"] = centred.mT @ centred / len(means)
    state["between_sample"] = apart.mT @ (apart * share[:, None])


def covariances(state, out, **options):
    """NC1 from pseudo-inverses with these options, and singular vectors of D x D matrices."""
    within, between, sample = state["within"], state["between"], state["between_sample"]
    k, rank = len(state["w"]), min(len(state["w"]) - 1, len(within))
    pinv = partial(torch.linalg.pinv, **options)
    out["nc1.pinv"] = (pinv(between) @ within).trace() / k
    u, s, _ = torch.linalg.svd(between)
    out["nc1.svd"] = (within @ u[:, :rank] @ torch.diag(1 / s[:rank]) @ u[:, :rank].T).trace() / k
    out["nc1.bounded"] = 1 - (pinv(within + between) @ between).trace() / rank
    explained = (pinv(within + sample) @ sample).trace()
    out["nc1.vci"] = 1 - explained / torch.linalg.matrix_rank(between)
    total = within + sample
    out["rank.participation"] = total.trace() ** 2 / total.square().sum()
    out["rank.participation_means"] = between.trace() ** 2 / between.square().sum()


def grid(data, function):
    """K x K of a function of differences, tile by tile."""
    result = data.new_zeros(len(data), len(data))
    for i in range(0, len(data), TILE):
        for j in range(0, len(data), TILE):
            one, two = data[i : i + TILE], data[j : j + TILE]
            result[i : i + TILE, j : j + TILE] = function(one[:, None] - two, i, j)
    return result


def over_pairs(matrix):
    """The entries above the diagonal."""
    return matrix[torch.ones_like(matrix, dtype=torch.bool).triu_(1)]


def cdnv(state, out):
    """Class-distance normalised variance."""
    variances = state["variances"]

    def ratio(gap, i, j):
        spread = (variances[i : i + TILE, None] + variances[j : j + TILE]) / 2
        return spread / (gap * gap).sum(-1)

    values = over_pairs(grid(state["means"], ratio))
    out["nc1.cdnv"], out["nc1.cdnv_max"] = values.mean(), values.max()


def energies(name, function):
    """Mean and variance over pairs of a function of the distance of unit vectors."""

    def part(state, out):
        unit = torch.nn.functional.normalize(state["centred"], dim=1)
        values = over_pairs(grid(unit, lambda gap, i, j: function(gap.norm(dim=-1))))
        out[name], out[f"{name}_var"] = values.mean(), values.var(correction=0)

    return part


def whole_pairs(state, out):
    """The results of `cdnv` and `energies`, by cdist."""
    variances, means = state["variances"], state["means"]
    spread = (variances[:, None] + variances) / 2
    values = over_pairs(spread / torch.cdist(means, means).square())
    out["nc1.cdnv"], out["nc1.cdnv_max"] = values.mean(), values.max()
    unit = torch.nn.functional.normalize(state["centred"], dim=1)
    distance = over_pairs(torch.cdist(unit, unit))
    for name, function in ENERGIES.items():
        values = function(distance)
        out[name], out[f"{name}_var"] = values.mean(), values.var(correction=0)


def geometry(state, out):
    """RNC1, quotients, NC2 and NC3 from K x K matrices."""
    counts, means, squares, norms = (state[n] for n in ("counts", "means", "squares", "norms"))
    given = counts, means, squares, norms.sum(), norms.max()
    out.update(standard(given, state["w"], state["b"], state["ood"]))
    unit = torch.nn.functional.normalize(state["centred"], dim=1)
    cosine = over_pairs(unit @ unit.mT)
    out["nc2.equiangular"] = (cosine + 1 / (len(means) - 1)).abs().mean()
    out["nc2.coherence"], out["nc2.cosine_mean"] = cosine.abs().max(), cosine.mean()


def decisions(state, out):
    """NC4: a third pass."""
    x, y, w, b, means = (state[name] for name in ("x", "y", "w", "b", "means"))
    counts, k = state["counts"], len(w)
    agree, hit = x.new_zeros(k), x.new_zeros(k)
    for rows, label in batches(x, y):
        square = rows.norm(dim=-1)[:, None] ** 2 + means.norm(dim=-1) ** 2
        nearest = (square - 2 * torch.inner(rows, means)).argmin(-1)
        agree.scatter_add_(0, label, (nearest == (rows @ w.mT + b).argmax(-1)).to(x.dtype))
        hit.scatter_add_(0, label, (nearest == label).to(x.dtype))
    add_decisions(out, agree, hit, counts)


def whole_decisions(state, out):
    """The same by cdist and products with the one-hot matrix."""
    x, y, w, means = (state[name] for name in ("x", "y", "w", "means"))
    onehot = torch.nn.functional.one_hot(y, len(w)).to(x.dtype)
    nearest = torch.cdist(x, means).argmin(1)
    agree, hit = nearest == (x @ w.T + state["b"]).argmax(1), nearest == y
    add_decisions(out, *(onehot.T @ each.to(x.dtype) for each in (agree, hit)), state["counts"])


def add_decisions(out, agree, hit, counts):
    """Metrics from the counts of equal and of right decisions of each class."""
    for name, total in (("agreement", agree), ("ncc_accuracy", hit)):
        out[f"nc4.{name}"] = total.sum() / counts.sum()
        out[f"nc4.{name}_class"] = (total / counts).mean()


def entropy_rank(singular):
    """exp of the entropy of normalised singular values."""
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def spectra(state, out):
    """Singular values of the means and of the features, and NECO from the principal components."""
    x, ood, mu, means, centred = (state[name] for name in ("x", "ood", "mu", "means", "centred"))
    rank = min(len(means) - 1, x.shape[1])
    singular = torch.linalg.svdvals(means)
    out["nc2.condition"] = singular[0] / singular[-1]
    singular = torch.linalg.svdvals(centred)
    out["nc2.condition_centred"] = singular[0] / singular[rank - 1]
    out["rank.effective_means"] = entropy_rank(singular[:rank])
    out["rank.stable_means"] = singular.square().sum() / singular[0] ** 2
    singular = torch.linalg.svdvals(x)
    out["rank.effective"] = entropy_rank(singular)
    out["rank.stable"] = singular.square().sum() / singular[0] ** 2
    _, vectors = torch.linalg.eigh((x - mu).mT @ (x - mu) / len(x))
    top = vectors[:, -rank:]
    scores = [
        ((z - mu) @ top).norm(dim=1) / (z - mu).norm(dim=1)
        if rank < x.shape[1]
        else torch.ones(len(z))
        for z in (x, ood)
    ]
    inside, order = scores[0], scores[1].sort().values
    below = torch.searchsorted(order, inside) + torch.searchsorted(order, inside, right=True)
    out["nc5.neco_auroc"] = below.sum() / (2 * len(x) * len(ood))
    threshold = inside.sort(descending=True).values[math.ceil(0.95 * len(x)) - 1]
    out["nc5.neco_fpr95"] = (order >= threshold).to(x.dtype).mean()


def bounds(state, out):
    """The generalisation bound by its definition, class by class: no public code was found."""
    x, y, w, b, means = (state[name] for name in ("x", "y", "w", "b", "means"))
    bound = trace_bound = x.new_zeros(())
    for c in range(len(w)):
        rows = x[y == c] - means[c]
        normal = w[c] - w
        margin = (normal @ means[c] + b[c] - b).clamp(min=0).square()
        spread = (rows @ normal.T).square().mean(0)
        length = normal.square().sum(1)
        term, loose = (v / (v + margin) for v in (spread, state["variances"][c] * length))
        bound = bound + state["share"][c] * (term.nansum() - term[c].nan_to_num())
        trace_bound = trace_bound + state["share"][c] * (loose.nansum() - loose[c].nan_to_num())
    out["bound.generalization"], out["bound.generalization_trace"] = bound, trace_bound


ENERGIES = {
    "nc2.distance": lambda distance: distance,
    "nc2.log_energy": lambda distance: (distance**-1).log(),
    "nc2.riesz_energy": lambda distance: distance**-1,
}
PUBLIC = (
    moments,
    geometry,
    covariances,
    decisions,
    spectra,
    cdnv,
    *(energies(name, function) for name, function in ENERGIES.items()),
    bounds,
)
MATRICES = (
    whole_moments,
    geometry,
    partial(covariances, hermitian=True),
    whole_decisions,
    spectra,
    whole_pairs,
    bounds,
)


def suite(parts, x, y, w, b, ood):
    """All metrics of these parts."""
    state, out = {"x": x, "y": y, "w": w, "b": b, "ood": ood}, {}
    for part in parts:
        part(state, out)
    return out


public, matrices = partial(suite, PUBLIC), partial(suite, MATRICES)
