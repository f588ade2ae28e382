"""The whole suite the public way: two passes over minibatches, one-hot masks, K x K grids by tiles.

The style is that of the neural-collapse package (github.com/rhubarbwu/neural-collapse): minibatches
of 128 rows as its examples take them; class sums and variances as products with a (K, B) mask; the
covariance as D x D products of deviations; nearest means from inner products; grids of pairs in
tiles of 64 x 64 differences (tile_size=64 in its examples), one grid a quantity. What that package
lacks follows its definition with torch's own routines: RankMe as singular values of the features,
NECO as principal components, the bounds as a loop over classes. Its checksums of the means and its
reads of single numbers are left out.

Written in parts, so that a long run can be cut: each part adds its metrics to ``out`` and what
later parts need to ``state``.
"""

import math

import torch

import ncfast

BATCH, TILE = 128, 64


def batches(x, y):
    """Minibatches in order."""
    return zip(x.split(BATCH), y.split(BATCH), strict=True)


def masked(y, k, like):
    """(K, B) mask of the classes."""
    return (y[:, None] == torch.arange(k)).mT.to(like.dtype)


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
    n, m = len(x), means.mean(0)
    state.update(means=means, counts=counts, variances=variances / counts, within=within / n)
    state.update(centred=means - m, share=counts / n, mu=totals.sum(0) / n)
    within, centred = state["within"], state["centred"]
    state["between"] = between = centred.mT @ centred / k
    apart = means - state["mu"]
    state["between_sample"] = sample = apart.mT @ (apart * state["share"][:, None])
    tw, tb, ts = within.trace(), between.trace(), sample.trace()
    out["rnc1.max"], out["rnc1.mean"] = tw / norms.max() ** 2, tw / norms.mean() ** 2
    out["nc1.quotient"], out["nc1.quotient_sample"] = tw / tb, tw / ts
    out["nc1.within_fraction"] = tw / (tw + tb)
    out["nc1.within_fraction_sample"] = tw / (tw + ts)


def covariances(state, out):
    """NC1 from pseudo-inverses and singular vectors of D x D matrices."""
    within, between, sample = state["within"], state["between"], state["between_sample"]
    k, d = len(state["w"]), len(within)
    rank = min(k - 1, d)
    out["nc1.pinv"] = (torch.linalg.pinv(between) @ within).trace() / k
    u, s, _ = torch.linalg.svd(between)
    out["nc1.svd"] = (within @ u[:, :rank] @ torch.diag(1 / s[:rank]) @ u[:, :rank].T).trace() / k
    out["nc1.bounded"] = 1 - (torch.linalg.pinv(within + between) @ between).trace() / rank
    explained = (torch.linalg.pinv(within + sample) @ sample).trace()
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
    """A part: mean and variance over pairs of a function of the distance of unit vectors."""

    def part(state, out):
        unit = torch.nn.functional.normalize(state["centred"], dim=1)
        values = over_pairs(grid(unit, lambda gap, i, j: function(gap.norm(dim=-1))))
        out[name], out[f"{name}_var"] = values.mean(), values.var(correction=0)

    return part


def etf_error(a, b):
    """Gram matrix against the simplex ETF, K x K."""
    k = len(a)
    gram = b @ a.mT
    gram /= torch.linalg.matrix_norm(gram)
    gram += 1 / k / math.sqrt(k - 1)
    gram.diagonal().sub_(1 / math.sqrt(k - 1))
    return torch.linalg.matrix_norm(gram)


def geometry(state, out):
    """NC2 and NC3 from K x K matrices."""
    w, b, means, centred = state["w"], state["b"], state["means"], state["centred"]
    k = len(w)
    unit = torch.nn.functional.normalize(centred, dim=1)
    cosine = over_pairs(unit @ unit.mT)
    out["nc2.equiangular"] = (cosine + 1 / (k - 1)).abs().mean()
    out["nc2.coherence"] = cosine.abs().max()
    out["nc2.cosine_mean"], out["nc2.cosine_std"] = cosine.mean(), cosine.std(correction=0)
    length, weight_length = centred.norm(dim=1), w.norm(dim=1)
    out["nc2.equinorm"] = length.std(correction=0) / length.mean()
    out["nc2.equinorm_weight"] = weight_length.std(correction=0) / weight_length.mean()
    wc = w - w.mean(0)
    out["nc2.etf_error"], out["nc2.etf_error_raw"] = (
        etf_error(centred, centred),
        etf_error(means, means),
    )
    out["nc2.etf_error_weight"], out["nc2.etf_error_weight_raw"] = (
        etf_error(wc, wc),
        etf_error(w, w),
    )
    out["nc3.cross_coherence"] = etf_error(centred, w)
    gap = (w / w.norm() - centred / centred.norm()).norm()
    out["nc3.self_duality"], out["nc3.self_duality_squared"] = gap, gap**2
    similar = torch.nn.functional.cosine_similarity(w, centred)
    out["nc3.cosine"], out["nc3.uniform_duality_cosine"] = similar.mean(), similar.var()
    out["nc3.uniform_duality"] = (w * centred).sum(1).var()
    out["nc3.bias_collapse"] = (w @ state["mu"] + b).norm()
    out["nc3.weight_sum"] = w.sum(0).norm() / w.norm()
    outside = state["ood"].mean(0)
    out["nc5.ood_cosine"] = torch.cosine_similarity(means, outside[None]).abs().mean()


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


def bounds(half):
    """A part: half of the classes' terms of both forms of the generalisation bound, by a loop."""

    def part(state, out):
        k = len(state["w"])
        add_bounds(state, out, range(half * k // 2, (half + 1) * k // 2))

    return part


def add_bounds(state, out, classes):
    """The definition, class after class; no public code of these bounds was found."""
    x, y, w, b, means = (state[name] for name in ("x", "y", "w", "b", "means"))
    bound = trace_bound = x.new_zeros(())
    for c in classes:
        rows = x[y == c] - means[c]
        normal = w[c] - w
        margin = (normal @ means[c] + b[c] - b).clamp(min=0).square()
        spread = (rows @ normal.T).square().mean(0)
        length = normal.square().sum(1)
        term, loose = (v / (v + margin) for v in (spread, state["variances"][c] * length))
        bound = bound + state["share"][c] * (term.nansum() - term[c].nan_to_num())
        trace_bound = trace_bound + state["share"][c] * (loose.nansum() - loose[c].nan_to_num())
    for name, value in (("generalization", bound), ("generalization_trace", trace_bound)):
        out[f"bound.{name}"] = out.get(f"bound.{name}", 0) + value


PARTS = {
    "moments": moments,
    "covariances": covariances,
    "geometry": geometry,
    "decisions": decisions,
    "spectra": spectra,
    "cdnv": cdnv,
    "distance": energies("nc2.distance", lambda distance: distance),
    "log": energies("nc2.log_energy", lambda distance: (distance**-1).log()),
    "riesz": energies("nc2.riesz_energy", lambda distance: distance**-1),
    "bounds, first half": bounds(0),
    "bounds, second half": bounds(1),
}


def prepared(x, y, w, b, ood):
    """A state from which any part can start, made another way: for parts run alone."""
    found = ncfast.class_moments(x, y, num_classes=len(w))
    counts = found.counts.to(x.dtype)
    state = {"x": x, "y": y, "w": w, "b": b, "ood": ood, "counts": counts}
    for name, value in (("means", found.means), ("variances", found.class_variances)):
        state[name] = value.to(x.dtype)
    state["mu"], means = found.global_mean.to(x.dtype), state["means"]
    state["centred"], state["share"] = means - means.mean(0), counts / len(x)
    gap, apart = x - means[y], means - state["mu"]
    state["within"] = gap.mT @ gap / len(x)
    state["between"] = state["centred"].mT @ state["centred"] / len(w)
    state["between_sample"] = apart.mT @ (apart * state["share"][:, None])
    return state


def public(x, y, w, b, ood):
    """Everything at once."""
    state, out = {"x": x, "y": y, "w": w, "b": b, "ood": ood}, {}
    for part in PARTS.values():
        part(state, out)
    return out
