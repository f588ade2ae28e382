"""The two time scales of the theory: of the fit and of the collapse."""

from __future__ import annotations

from dataclasses import dataclass

from ncfast.tracking.analytics.hysteresis import Records, settled_step
from ncfast.tracking.timescales import series


@dataclass(frozen=True)
class TimeScales:
    """Steps at which the training loss and RNC1 fall under their thresholds.

    Attributes:
        tau_1: step of the training loss; None if it did not happen within the log.
        tau_2: step of RNC1; None likewise: then it is censored at ``last_step``.
        last_step: last log point.
    """

    tau_1: int | None
    tau_2: int | None
    last_step: int

    @property
    def ratio(self) -> float | None:
        """tau_2 / tau_1, large where a network groks; None where one of them is."""
        if self.tau_1 is None or self.tau_2 is None:
            return None
        return self.tau_2 / max(self.tau_1, 1)


def time_scales(
    records: Records,
    *,
    eps_1: float,
    eps_2: float,
    loss: str = "train/loss",
    rnc1: str = "train/rnc1.max",
    slack: float = 2.0,
) -> TimeScales:
    """tau_1 and tau_2 of a run (Sakamoto & Sato 2025, Theorem 4.3).

    The theory says tau_1 = Omega(log(1/eps_1) / eta), whatever the weight decay lambda, and
    tau_2 = Omega(log(1/eps_2) / (lambda eta)), for full-batch gradient descent with step eta.

    Args:
        records: a log, in order of steps.
        eps_1: the training loss, in its own unit, that counts as fitted.
        eps_2: the RNC1 that counts as collapsed.
        loss: the key of the training loss.
        rnc1: the key of RNC1.
        slack: a value may rise to ``slack`` times its threshold without undoing the event.

    Returns:
        The steps, each at a log point: the first of a period that lasts up to twice its step.

    Raises:
        ValueError: no record has one of the keys; a threshold is not positive; slack is under 1.

    Example:
        >>> log = [{"step": s, "train/loss": 10 / (1 + s), "train/rnc1.max": 100 / (100 + s)}
        ...        for s in range(1000)]
        >>> time_scales(log, eps_1=0.1, eps_2=0.2)
        TimeScales(tau_1=99, tau_2=400, last_step=999)
    """
    if min(eps_1, eps_2) <= 0 or slack < 1:
        raise ValueError(
            "Expected positive `eps_1` and `eps_2` and a `slack` of at least 1 but got "
            f"{eps_1}, {eps_2} and {slack}."
        )
    found = []
    for key, eps in ((loss, eps_1), (rnc1, eps_2)):
        steps, values = series(records, key)
        if not len(steps):
            raise ValueError(
                f"Expected records with the key {key!r} but none has it. Log it, or name another."
            )
        found.append(settled_step(steps, values, eps, slack * eps, falling=True))
    return TimeScales(found[0], found[1], int(records[-1]["step"]))
