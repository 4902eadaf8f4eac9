"""What DP-SGD at a site costs: dp-accounting's privacy loss distributions, the accountant of record.

Rules
-----
1. Adjacency is adding or removing one unit; every step Poisson-samples the units at one rate.
2. All steps of a plan are composed at once: (rounds + spare attempts) * steps. A sum of accounts per
   round, or an accountant that starts anew each round, is another number and is not used anywhere.
3. Noise, rate and number of steps are fixed before the run, which is what the composition needs; across
   runs epsilon and delta add (the ledger's part).
4. The estimate is pessimistic: losses are rounded up to a grid of 1e-4 (dp-accounting's default).
5. dp-accounting is imported by the functions, so that a site without a unit never loads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial

from plasmid.core.errors import UsageError

ACCOUNTANT = "dp-accounting PLD"

_GRID = 1e-4
_COARSE_GRID = 1e-3
_PER_UNIT = 10_000
_LEAST = _PER_UNIT // 10
_MOST = 10_000 * _PER_UNIT


def check_plan(
    *,
    rate: float = 1.0,
    releases: int = 1,
    epsilon: float = 1.0,
    delta: float = 1e-6,
    size: int | None = None,
) -> list[str]:
    """Return what is wrong with the figures of a plan, one sentence each; *size* is the number of units N."""
    found = []
    if not 0 < rate <= 1:
        found.append(f"the sampling rate must lie in (0, 1], not {rate:g}")
    if releases < 1:
        found.append(f"the number of releases must be at least 1, not {releases}")
    if not 0 < epsilon < math.inf:
        found.append(f"epsilon must be a number above 0, not {epsilon:g}")
    if size is not None and size < 1:
        found.append(f"the number of units must be at least 1, not {size}")
    if not 0 < delta < 1:
        found.append(f"delta must lie in (0, 1), not {delta:g}")
    elif size is not None and size >= 1 and delta >= 1 / size:
        found.append(f"delta must be below 1/{size} = {1 / size:g} (one unit of {size}), not {delta:g}")
    return found


def refuse(problems: list[str]) -> None:
    """Raise UsageError (``usage.privacy``) with all *problems*; return if there are none."""
    if problems:
        raise UsageError(
            "usage.privacy",
            "the privacy figures cannot be used: " + "; ".join(problems) + ".",
            "Correct them; 'plasmid privacy calibrate --help' says what each one means.",
        )


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
    import dp_accounting
    from dp_accounting import pld

    adjacency = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(adjacency, grid)
    release = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    accountant.compose(release, steps)
    return float(accountant.get_epsilon(delta))


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
