"""The cheap tiers of metrics, written plainly from class moments: O(K D), and K x K products."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.benchmarks.plain.metrics_matrices import etf_distance

Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def lite(moments: Moments, w: Tensor, b: Tensor, ood: Tensor) -> dict[str, Tensor]:
    """RNC1, quotients, norms, and the duality of means and classifier; every class present."""
    counts, means, within, norm_sum, norm_max = moments
    n, k = counts.sum(), len(means)
    share = counts / n
    mu, centred = share.to(means.dtype) @ means, means - means.mean(0)
    tw = within.sum() / n
    tb = centred.square().sum() / k
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


def standard(moments: Moments, w: Tensor, b: Tensor, ood: Tensor) -> dict[str, Tensor]:
    """Those of `lite`, and what takes the K x K products."""
    _, means, *_ = moments
    centred, wc = means - means.mean(0), w - w.mean(0)
    k = len(means)
    unit = torch.nn.functional.normalize(centred, dim=1)
    upper = torch.ones(k, k, dtype=torch.bool, device=means.device).triu_(1)
    gram = centred @ centred.mT
    return lite(moments, w, b, ood) | {
        "nc2.etf_error": etf_distance(centred, centred),
        "nc2.etf_error_raw": etf_distance(means, means),
        "nc2.cosine_std": (unit @ unit.mT)[upper].std(correction=0),
        "rank.participation_means": gram.trace() ** 2 / gram.square().sum(),
        "nc2.etf_error_weight": etf_distance(wc, wc),
        "nc2.etf_error_weight_raw": etf_distance(w, w),
        "nc3.cross_coherence": etf_distance(w, centred),
    }
