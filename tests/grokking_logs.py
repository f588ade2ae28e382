"""Synthetic logs of runs with known events."""

import numpy as np


def log(fit=100, rise=1000, fall=3000, last=10_000, every=10, noise=0.0, seed=0):
    """Training accuracy rises at ``fit``, test accuracy at ``rise``; RNC1 falls at ``fall``."""
    rng = np.random.default_rng(seed)
    jitter = lambda: noise * rng.standard_normal()  # noqa: E731
    return [
        {
            "step": step,
            "train/accuracy": min(1.0, (1.0 if step >= fit else 0.2) + min(0.0, jitter())),
            "train/loss": 1e-3 if step >= fit else 1.0,
            "test/accuracy": (0.9 if step >= rise else 0.1) + jitter(),
            "train/rnc1.max": (0.2 if step < fall else 0.01) * np.exp(jitter()),
        }
        for step in range(0, last + 1, every)
    ]
