"""Measures the two time scales of the theory: of the fit and of the collapse."""

from __future__ import annotations

from dataclasses import dataclass

from ncfast.tracking.analytics.events import series
from ncfast.tracking.analytics.hysteresis import Records, settled_step


@dataclass(frozen=True)
class TimeScales:
    """The steps at which the training loss and RNC1 fall to their thresholds.

    Attributes:
        tau_1: step at which the training loss falls; None if it does not fall within the log.
        tau_2: step at which RNC1 falls; None if it does not fall within the log. tau_2 is then
            censored at ``last_step``.
        last_step: the last log point.
    """

    tau_1: int | None
    tau_2: int | None
    last_step: int

    @property
    def ratio(self) -> float | None:
        """tau_2 / tau_1, which is large if a network groks; None if one of them is None."""
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

    For full-batch gradient descent with step size eta and weight decay lambda the theory gives
    tau_1 = Omega(log(1/eps_1) / eta), independent of lambda, and
    tau_2 = Omega(log(1/eps_2) / (lambda eta)).

    Args:
        records: a log, in order of steps.
        eps_1: the training loss, in its own unit, of a fitted run.
        eps_2: the RNC1 of a collapsed run.
        loss: the key of the training loss.
        rnc1: the key of RNC1.
        slack: a value may rise again to ``slack`` times its threshold without ending the event.

    Returns:
        The steps. Each is the first log point of a period that lasts to twice its step.

    Raises:
        ValueError: a key is in no record, a threshold is not positive, or ``slack`` is below 1.

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
