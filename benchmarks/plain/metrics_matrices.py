"""The whole suite written plainly with whole matrices: one-hot products, cdist, K x K and D x D.

More vectorised than public code, which takes minibatches and tiles of differences
(metrics_public.py), and less accurate in float32 than those differences.
"""

import math

import torch


def etf_distance(a, b):
    """Gram matrix against the simplex ETF, K x K."""
    k = len(a)
    gram = a @ b.T
    return (
        gram / gram.norm()
        - (torch.eye(k, dtype=a.dtype, device=a.device) - 1 / k) / math.sqrt(k - 1)
    ).norm()


def entropy_rank(singular):
    """exp of the entropy of normalised singular values."""
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def matrices(x, y, w, b, ood):
    """The same numbers by one-hot products and whole matrices, with a loop for the bounds."""
    n, d, k = len(x), x.shape[1], len(w)
    onehot = torch.nn.functional.one_hot(y, k).to(x.dtype)
    counts = onehot.sum(0)
    means = onehot.T @ x / counts[:, None]
    residual = x - onehot @ means
    variances = (onehot.T @ residual.square()).sum(1) / counts
    within = residual.T @ residual / n
    m, mu = means.mean(0), x.mean(0)
    centred, share = means - m, counts / n
    between = centred.T @ centred / k
    between_sample = (means - mu).T @ ((means - mu) * share[:, None])
    tw, tb, ts = within.trace(), between.trace(), between_sample.trace()
    norms = x.norm(dim=1)
    out = {
        "rnc1.max": tw / norms.max() ** 2,
        "rnc1.mean": tw / norms.mean() ** 2,
        "nc1.quotient": tw / tb,
        "nc1.quotient_sample": tw / ts,
        "nc1.within_fraction": tw / (tw + tb),
        "nc1.within_fraction_sample": tw / (tw + ts),
        "nc1.pinv": (within @ torch.linalg.pinv(between, hermitian=True)).trace() / k,
    }
    rank = min(k - 1, d)
    u, s, _ = torch.linalg.svd(between)
    u, s = u[:, :rank], s[:rank]
    out["nc1.svd"] = (within @ u @ torch.diag(1 / s) @ u.T).trace() / k
    total = torch.linalg.pinv(within + between, hermitian=True)
    out["nc1.bounded"] = 1 - (total @ between).trace() / rank
    total = torch.linalg.pinv(within + between_sample, hermitian=True)
    out["nc1.vci"] = 1 - (total @ between_sample).trace() / torch.linalg.matrix_rank(between)
    pairs = torch.triu_indices(k, k, 1)
    pairs = pairs[0] * k + pairs[1]

    def over_pairs(matrix):
        return matrix.flatten()[pairs]

    distance = torch.cdist(means, means).square()
    values = over_pairs((variances[:, None] + variances) / (2 * distance))
    out["nc1.cdnv"], out["nc1.cdnv_max"] = values.mean(), values.max()
    unit = centred / centred.norm(dim=1, keepdim=True)
    cosine = over_pairs(unit @ unit.T)
    out["nc2.equiangular"] = (cosine + 1 / (k - 1)).abs().mean()
    out["nc2.coherence"] = cosine.abs().max()
    out["nc2.cosine_mean"], out["nc2.cosine_std"] = cosine.mean(), cosine.std(correction=0)
    apart = over_pairs(torch.cdist(unit, unit))
    for name, values in (
        ("nc2.distance", apart),
        ("nc2.log_energy", -apart.log()),
        ("nc2.riesz_energy", 1 / apart),
    ):
        out[name], out[f"{name}_var"] = values.mean(), values.var(correction=0)
    singular = torch.linalg.svdvals(means)
    out["nc2.condition"] = singular[0] / singular[-1]
    singular = torch.linalg.svdvals(centred)
    out["nc2.condition_centred"] = singular[0] / singular[rank - 1]
    length = centred.norm(dim=1)
    out["nc2.equinorm"] = length.std(correction=0) / length.mean()
    length = w.norm(dim=1)
    out["nc2.equinorm_weight"] = length.std(correction=0) / length.mean()
    wc = w - w.mean(0)
    out["nc2.etf_error"], out["nc2.etf_error_raw"] = (
        etf_distance(centred, centred),
        etf_distance(means, means),
    )
    out["nc2.etf_error_weight"], out["nc2.etf_error_weight_raw"] = (
        etf_distance(wc, wc),
        etf_distance(w, w),
    )
    gap = (w / w.norm() - centred / centred.norm()).norm()
    out["nc3.self_duality"], out["nc3.self_duality_squared"] = gap, gap**2
    out["nc3.cross_coherence"] = etf_distance(w, centred)
    similar = torch.nn.functional.cosine_similarity(w, centred)
    out["nc3.cosine"], out["nc3.uniform_duality_cosine"] = similar.mean(), similar.var()
    out["nc3.uniform_duality"] = (w * centred).sum(1).var()
    out["nc3.bias_collapse"] = (w @ mu + b).norm()
    out["nc3.weight_sum"] = w.sum(0).norm() / w.norm()
    nearest = torch.cdist(x, means).argmin(1)
    agree, hit = (nearest == (x @ w.T + b).argmax(1)).to(x), (nearest == y).to(x)
    out["nc4.agreement"], out["nc4.ncc_accuracy"] = agree.mean(), hit.mean()
    out["nc4.agreement_class"] = (onehot.T @ agree / counts).mean()
    out["nc4.ncc_accuracy_class"] = (onehot.T @ hit / counts).mean()
    out["nc5.ood_cosine"] = torch.cosine_similarity(means, ood.mean(0)[None]).abs().mean()
    _, vectors = torch.linalg.eigh((x - mu).T @ (x - mu) / n)
    top = vectors[:, -rank:]
    scores = [
        ((z - mu) @ top).norm(dim=1) / (z - mu).norm(dim=1) if rank < d else torch.ones(len(z))
        for z in (x, ood)
    ]
    inside, order = scores[0], scores[1].sort().values
    below = torch.searchsorted(order, inside) + torch.searchsorted(order, inside, right=True)
    out["nc5.neco_auroc"] = below.sum() / (2 * n * len(ood))
    threshold = inside.sort(descending=True).values[math.ceil(0.95 * n) - 1]
    out["nc5.neco_fpr95"] = (order >= threshold).to(x).mean()
    singular = torch.linalg.svdvals(x)
    out["rank.effective"] = entropy_rank(singular)
    out["rank.stable"] = singular.square().sum() / singular[0] ** 2
    singular = torch.linalg.svdvals(centred)
    out["rank.effective_means"] = entropy_rank(singular[:rank])
    out["rank.stable_means"] = singular.square().sum() / singular[0] ** 2
    total = within + between_sample
    out["rank.participation"] = total.trace() ** 2 / total.square().sum()
    out["rank.participation_means"] = between.trace() ** 2 / between.square().sum()
    bound = trace_bound = torch.zeros(())
    for c in range(k):
        rows = residual[y == c]
        normal = w[c] - w
        margin = (normal @ means[c] + b[c] - b).clamp(min=0).square()
        spread = (rows @ normal.T).square().mean(0)
        term, loose = (v / (v + margin) for v in (spread, variances[c] * normal.square().sum(1)))
        bound = bound + share[c] * (term.nansum() - term[c].nan_to_num())
        trace_bound = trace_bound + share[c] * (loose.nansum() - loose[c].nan_to_num())
    out["bound.generalization"], out["bound.generalization_trace"] = bound, trace_bound
    return out
