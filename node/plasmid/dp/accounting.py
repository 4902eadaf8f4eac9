"""What DP-SGD at a site costs: dp-accounting's privacy loss distributions, the accountant of record.

Rules
-----
1. Adjacency is adding or removing one unit; every step Poisson-samples the units at one rate.
2. All steps of a plan are composed at once: (rounds + spare attempts) * steps. A sum of accounts per
   round, or an accountant that starts anew each round, is another number and is not used anywhere.
3. Noise, rate and number of steps are fixed before the run, which is what the composition needs; across
   runs epsilon and delta add (the ledger's part).
4. The estimate is pessimistic: losses are rounded up to a grid of 1e-4 (dp-accounting's default).
5. Noise is drawn from tables at a known distance from what is accounted. A share of delta is kept for that
   (:func:`charged`), and an epsilon that it does not cover is none.
6. This module runs in the accountants' process; whoever needs a figure asks
   :mod:`plasmid.dp.accountant`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, lru_cache, partial

import dp_accounting
from dp_accounting import pld
from dp_accounting.rdp import RdpAccountant

from plasmid.dp.accountant import check_plan, refuse
from plasmid.dp.lattice import DISTANCE

SAMPLERS = 2.0**-16
"""The share of delta that is kept for the distance of the samplers."""

MOST_VALUES = 2**30
"""Values that one step of ``dp-sgd`` noises, at most."""

_GRID = 1e-4
_COARSE_GRID = 1e-3
_PER_UNIT = 10_000
_ORDERS = (1.01, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_LEAST = _PER_UNIT // 10
_MOST = 10_000 * _PER_UNIT


def most_epsilon(delta: float, values: int) -> float:
    """Return the largest epsilon for which the samplers' share of *delta* covers *values* drawn values.

    Let P, Q be what is accounted for two neighbours and P', Q' what is drawn, each within total variation t
    of it. P'(S) <= P(S) + t <= e^epsilon Q(S) + rest + t <= e^epsilon Q'(S) + rest + (1 + e^epsilon) t, with
    the rest of delta that epsilon was computed at. Distances of independent values add up.
    """
    share = SAMPLERS * delta / (values * DISTANCE)
    return math.log(share - 1) if share > 2 else 0.0


def charged(epsilon: float, delta: float, values: int) -> float:
    """Return *epsilon*, or infinity where it is more than :func:`most_epsilon`."""
    return epsilon if epsilon <= most_epsilon(delta, values) else math.inf


def dp_sgd_epsilon(*, rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """Return epsilon at *delta* of *steps* Poisson-sampled Gaussian releases.

    Parameters
    ----------
    rate
        Probability q of each unit to be in a step's sample, in (0, 1].
    noise_multiplier
        Standard deviation of the noise divided by the clip.
    steps
        Steps of the whole plan: (rounds + spare attempts) times steps a round.

    Raises
    ------
    UsageError
        ``usage.privacy``: a figure outside its range.
    """
    problems = check_plan(rate=rate, releases=steps, delta=delta)
    if not 0 < noise_multiplier < math.inf:
        problems.append(f"the noise multiplier must be above 0, not {noise_multiplier:g}")
    refuse(problems)
    return _epsilon(rate, noise_multiplier, steps, delta, _GRID)


@lru_cache(maxsize=1024)
def _epsilon(rate: float, noise_multiplier: float, steps: int, delta: float, grid: float) -> float:
    adjacency = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(adjacency, grid)
    release = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    accountant.compose(release, steps)
    epsilon = float(accountant.get_epsilon(delta * (1 - SAMPLERS)))
    return charged(epsilon, delta, steps * MOST_VALUES)


def dp_sgd_bound(*, rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """Return a quick upper bound on epsilon, by Rényi orders.

    Raises
    ------
    ValueError
        A rate outside (0, 1], or a noise multiplier that is not a number above 0.
    """
    if not (0 < rate <= 1 and 0 < noise_multiplier < math.inf):
        raise ValueError(f"rate {rate}, noise multiplier {noise_multiplier}")
    accountant, log = RdpAccountant(_ORDERS), logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of every order that it leaves out; the others bound as well
    try:
        release = dp_accounting.GaussianDpEvent(noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, release), steps)
        return float(accountant.get_epsilon(delta))
    finally:
        log.setLevel(level)


@cache
def dp_sgd_noise(*, rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier that keeps (*epsilon*, *delta*) over *steps*.

    It is a multiple of 1e-4 and at least 0.1, where an epsilon that would allow less protects nobody.

    Raises
    ------
    UsageError
        ``usage.privacy``: a figure outside its range, or no multiplier up to 10,000 is enough.
    """
    refuse(check_plan(rate=rate, releases=steps, epsilon=epsilon, delta=delta))
    epsilon = min(epsilon, most_epsilon(delta, steps * MOST_VALUES))
    guess = 0.5 + rate * math.sqrt(2 * steps * math.log(1 / delta)) / epsilon  # what theory says, roughly
    start = round(guess * _PER_UNIT)
    for grid in (_COARSE_GRID, _GRID):
        costs = _Costs(partial(_epsilon_of_digits, rate, steps, delta, grid), epsilon)
        start = costs.smallest(start)
        if start == _LEAST:  # the coarse grid is the more pessimistic one: what fits there fits
            break
    return start / _PER_UNIT


def _epsilon_of_digits(rate: float, steps: int, delta: float, grid: float, digits: int) -> float:
    return _epsilon(rate, digits / _PER_UNIT, steps, delta, grid)


class _Costs:
    """Epsilon by noise multiplier, in digits of 1e-4: it falls, nearly along a line of the logarithms."""

    def __init__(self, cost: Callable[[int], float], epsilon: float) -> None:
        self._cost = cost
        self._epsilon = epsilon
        self._known: dict[int, float] = {}

    def _fits(self, digits: int) -> bool:
        self._known[digits] = self._cost(digits)
        return self._known[digits] <= self._epsilon

    def smallest(self, start: int) -> int:
        """Return the smallest digits that fit, the least of all at least."""
        high = min(max(start, _LEAST), _MOST)
        step, up = 1, not self._fits(high)
        low = high
        while self._fits(high if up else low) != up:  # widen a bracket: low does not fit, high does
            if up and high == _MOST:
                figure = f"no noise multiplier up to {_MOST // _PER_UNIT:,} gives epsilon {self._epsilon:g}"
                refuse([f"{figure}; plan fewer steps, a lower rate or a larger epsilon"])
            if not up and low == _LEAST:
                return _LEAST
            low, high = (high, min(high + step, _MOST)) if up else (max(low - step, _LEAST), low)
            step = max(1, min(4 * step, low // 4))  # never far below: small multipliers cost minutes
        while high - low > 1:
            tried = self._between(low, high)
            low, high = (low, tried) if self._fits(tried) else (tried, high)
        return high

    def _between(self, low: int, high: int) -> int:
        if math.isinf(self._known[low]):
            return (low + high) // 2
        above, below = math.log(self._known[low]), math.log(max(self._known[high], 1e-300))
        share = (above - math.log(self._epsilon)) / (above - below)
        guess: float = low * (high / low) ** share
        return min(max(math.ceil(guess), low + 1), high - 1)
