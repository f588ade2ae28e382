"""Descriptions of quantities with a call of their own, outside `collapse_metrics`."""

from __future__ import annotations

from dataclasses import dataclass

_THEORY = "Sakamoto & Sato 2025, arXiv 2509.20829"


@dataclass(frozen=True)
class Standalone:
    """Formula, source, range and direction of a quantity, and the function that computes it."""

    call: str
    formula: str
    source: str
    range: str
    direction: str


DESCRIPTIONS = {
    "weight.norm": Standalone(
        "ncfast.weight_norm",
        "sqrt(sum p^2) over all parameters",
        "global L2 norm; not the sum of the norms of tensors",
        "[0, inf)",
        "falls under weight decay",
    ),
    "weight.spectral_product": Standalone(
        "ncfast.spectral_norm_product",
        "product over layers of sigma_max(W_l)",
        "Bartlett, Foster & Telgarsky 2017",
        "[0, inf)",
        "smaller: smoother",
    ),
    "balancedness": Standalone(
        "ncfast.balancedness",
        "norm_F(A - B) / (norm_F(A) + norm_F(B)), A = W_L^T W_L, B = W_{L-1} W_{L-1}^T",
        f"{_THEORY}, Theorem 4.3; the gap norm_F(A - B) made relative",
        "[0, 1]",
        "0: balanced",
    ),
    "bound.superfluous": Standalone(
        "ncfast.superfluous_information_bound",
        "1/2 sum_c p_c logdet(I + Cov_c / (B_g^2 sigma^2)) <= RNC1 / (2 sigma^2), in nats",
        f"{_THEORY}, Theorem 3.4",
        "[0, inf)",
        "0: nothing superfluous",
    ),
}
