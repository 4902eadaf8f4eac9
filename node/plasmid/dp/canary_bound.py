"""The lower bound on epsilon that right guesses of a canary audit prove; see :mod:`plasmid.dp.canary_audit`.

It runs in the accountants' process: whoever needs it asks :mod:`plasmid.dp.accountant`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from plasmid.dp.canary_audit import CONFIDENCE


def p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the largest probability of at least *right* right *guesses* under (*epsilon*, *delta*)-DP.

    Raises
    ------
    ValueError
        Not 0 <= right <= guesses <= canaries, or an epsilon below 0, or a delta outside [0, 1].
    """
    if not (0 <= right <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        figures = f"{canaries} canaries, {guesses} guesses, {right} right, epsilon {epsilon}, delta {delta}"
        raise ValueError(f"no audit has {figures}")
    if guesses == 0:
        return 1.0
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, accuracy))
    alpha = 0.0
    if delta > 0 and right > 0:
        # Below `lowest` W has less than e^-70 of its mass (Bernstein): the average only falls from there.
        mean = guesses * accuracy
        lowest = max(0, min(right - 1, math.floor(mean - 12 * math.sqrt(mean * (1 - accuracy)) - 100)))
        mass = np.cumsum(binom.pmf(np.arange(right - 1, lowest - 1, -1), guesses, accuracy))
        alpha = float((mass / np.arange(1, len(mass) + 1)).max())
    return min(1.0, beta + 2 * canaries * delta * alpha)


def epsilon_bound(
    *, canaries: int, guesses: int, right: int, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """Return the epsilon that the run exceeds at *confidence*, to 1e-6 and rounded down; 0 if it shows none.

    Raises
    ------
    ValueError
        As :func:`p_value`, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence}")

    def rejected(epsilon: float) -> bool:
        found = p_value(canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
        return found < 1 - confidence

    if not rejected(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while rejected(high):
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
