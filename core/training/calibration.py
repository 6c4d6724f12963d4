"""Temperature scaling: scores that can be taken as probabilities.

A network that was trained with smoothed labels is too modest, one that was trained long too sure. Dividing
its logits by one number mends most of either and changes no decision (Guo, Pleiss, Sun, Weinberger, 2017,
https://arxiv.org/abs/1706.04599).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from core.training.metrics import Counts, probabilities

# Where every picture is right the likelihood grows for ever as the temperature falls, and where all are wrong
# as it rises: a limit says that the data have no more to say.
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: ArrayLike, targets: Counts) -> float:
    """The temperature in [0.05, 20] with the lowest negative log-likelihood.

    logits: [N, classes]. targets: int [N]. Both from pictures that the training has not seen.

    The likelihood is concave in 1 / temperature, so that its slope has one zero at most, found by bisection.
    """
    z = np.asarray(logits, np.float64)
    wanted = z[np.arange(len(z)), targets].mean()

    def slope(log_temperature: float) -> float:
        # Of the loss by 1 / temperature: the logit that is expected less the one that was wanted.
        expected = (probabilities(z, math.exp(log_temperature)) * z).sum(axis=1).mean()
        return float(expected - wanted)

    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(60):
        middle = (low + high) / 2
        # Expected above wanted: too sure, and the temperature has to rise.
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)
