"""What `Tracker.step` measures: each batch alone, or an average over the last batches.

A batch holds few samples of a class, and the network changes from batch to batch. The averages
therefore pool deviations from the class mean *of the same batch*: training that moves the means
does not count as spread. With n_ct samples, mean mu_ct and sum of squares SS_ct of class c in batch
t, and weights a_t (1 within a window; beta^(age) for an exponential average),

    w_c  = sum_t a_t n_ct                      weight of the class
    mu_c = sum_t a_t n_ct mu_ct / w_c
    V_c  = sum_t a_t SS_ct / sum_t a_t (n_ct - 1)+    unbiased: one degree of freedom a class, batch
    Tr(Sigma_W) = sum_c w_c V_c / sum_c w_c
    mean norm   = sum_t a_t sum_i norm(g_i) / sum_t a_t n_t
    largest norm = the largest in a window; an exponential average of the batches' largest

Dividing by the sum of the weights also removes the bias of the start (Kingma & Ba 2015, section 3).
A class that never had two samples in one batch takes the pooled variance of the others; one whose
weight has decayed to 2^-60 of a sample counts as absent. What bias remains is that of the means:
norm(mu_c - mu_k)^2 is too large by about V_c / n_c + V_k / n_k, with the numbers of samples in the
average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Stream:
    """How batches are averaged.

    Attributes:
        kind: "batch", "window" or "ema".
        length: batches in a window.
        decay: beta of an exponential average.
    """

    kind: Literal["batch", "window", "ema"]
    length: int = 1
    decay: float = 0.0


def parse(text: str) -> Stream:
    """A stream from "batch", "window:LENGTH" or "ema:DECAY".

    Raises:
        ValueError: the text is none of these, a length is below 1 or a decay outside (0, 1).

    Example:
        >>> parse("ema:0.99")
        Stream(kind='ema', length=1, decay=0.99)
    """
    kind, _, number = text.partition(":")
    if kind == "batch" and not number:
        return Stream("batch")
    if kind == "window" and number.isdigit() and int(number) > 0:
        return Stream("window", length=int(number))
    if kind == "ema" and _is_share(number):
        return Stream("ema", decay=float(number))
    raise ValueError(
        "Expected argument `stream` to be 'batch', 'window:LENGTH' with a positive length or "
        f"'ema:DECAY' with a decay between 0 and 1 but got {text!r}. For example 'ema:0.99'."
    )


def _is_share(number: str) -> bool:
    try:
        return 0 < float(number) < 1
    except ValueError:
        return False
