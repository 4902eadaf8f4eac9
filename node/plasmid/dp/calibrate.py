"""The noise that a plan needs, and whether the signal survives it: the figures behind a yes or a no.

Rules
-----
1. The noise is what the run itself would use: :mod:`~plasmid.dp.accounting` for ``dp-sgd``,
   :mod:`~plasmid.dp.skellam` for noise shared inside the sum.
2. Noise-to-signal is the expected L2 norm of the noise in one released mean, divided by the largest norm
   that the mean can have (the clip, when everyone agrees): for d values of standard deviation s it is
   s sqrt(d) / clip.
3. Above :data:`DROWNED` the answer is no. Between 1 and that it is "perhaps": the noise of many steps
   averages out only as far as the signal stays the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from plasmid.dp.accountant import (
    check_plan,
    dp_sgd_epsilon,
    dp_sgd_noise,
    plan_shared_noise,
    refuse,
    skellam_epsilon,
)
from plasmid.secagg.roster import threshold

DROWNED = 10.0
"""Noise-to-signal of one release above which nothing is learned in any plausible number of rounds."""

Mechanism = Literal["dp-sgd", "dp-fedsgd", "output"]
Unit = Literal["record", "patient", "site"]


@dataclass(frozen=True)
class Plan:
    """What is asked. Sizes are per site; a round is one release of ``dp-fedsgd`` and ``output``.

    Attributes
    ----------
    size
        N, the units that a site declares; None for unit ``site``.
    batch
        B, the expected units in a sample; None for ``output``.
    sites, colluding
        n and c; only shared noise depends on them.
    clip
        L2 bound of one unit (``dp-sgd``, ``dp-fedsgd``) or of a site's vector (``output``).
    parameters
        d, the values that are released; None leaves the answer open for ``dp-sgd``.
    """

    epsilon: float
    delta: float
    rounds: int
    steps: int = 1
    spare_attempts: int = 2
    mechanism: Mechanism = "dp-sgd"
    unit: Unit = "record"
    size: int | None = None
    batch: int | None = None
    sites: int = 1
    colluding: int = 1
    clip: float = 1.0
    parameters: int | None = None

    @property
    def rate(self) -> float:
        """q = min(1, B/N)."""
        if self.mechanism == "output" or self.batch is None or self.size is None:
            return 1.0
        return min(1.0, self.batch / self.size)

    @property
    def attempts(self) -> int:
        """Attempts that are charged."""
        return self.rounds + self.spare_attempts

    @property
    def smallest_set(self) -> int:
        """The m that n and c lead to without a larger ``min_sites``."""
        return max(3, threshold(self.sites, self.colluding))

    def problems(self) -> list[str]:
        """Return everything that is wrong with the plan, one sentence each."""
        people = self.sites if self.unit == "site" else self.size
        found = check_plan(epsilon=self.epsilon, delta=self.delta, size=people)
        sampled = self.mechanism != "output"
        least = [
            ("rounds", self.rounds, 1),
            ("steps", self.steps, 1),
            ("spare attempts", self.spare_attempts, 0),
        ]
        if sampled and self.batch is not None:
            least.append(("batch", self.batch, 1))
        if self.parameters is not None:
            least.append(("number of parameters", self.parameters, 1))
        found += [
            f"the {name} must be at least {low}, not {value}" for name, value, low in least if value < low
        ]
        if not 0 < self.clip < math.inf:
            found.append(f"the clip must be a number above 0, not {self.clip:g}")
        if self.unit == "site" and sampled:
            found.append(f"unit site needs mechanism output, not {self.mechanism}")
        if self.unit != "site" and self.size is None:
            found.append(f"unit {self.unit} needs the number of units that a site declares (--size)")
        if sampled and self.batch is None:
            found.append(f"{self.mechanism} needs the expected number of units in a sample (--batch)")
        if self.mechanism != "dp-sgd":
            found += self._shared_problems()
        return found

    def _shared_problems(self) -> list[str]:
        found = []
        if self.parameters is None:
            found.append(f"{self.mechanism} needs the number of values that are released (--parameters)")
        if self.steps != 1:
            found.append(f"{self.mechanism} releases one step a round, not {self.steps}")
        if self.sites < 3:
            found.append(f"shared noise needs at least 3 sites, not {self.sites}; with fewer use dp-sgd")
        elif not 1 <= self.colluding < self.sites - 1:
            found.append(f"of {self.sites} sites 1 to {self.sites - 2} may collude, not {self.colluding}")
        return found


@dataclass(frozen=True)
class Calibration:
    """What the plan needs.

    Attributes
    ----------
    noise_multiplier
        Noise of one release divided by the sensitivity: sigma of ``dp-sgd``, and for shared noise that of the
        m - c shares that are counted.
    noise_std
        Standard deviation of each value of the released mean, all n shares included, in real units.
    epsilon, epsilon_round
        Recomputed for all attempts, and for one round alone. Rounds don't add up: they compose.
    noise_to_signal
        See rule 2; None where ``parameters`` was not given.
    central_noise_to_signal
        The same for one trusted curator's Gaussian noise: what not trusting one costs is the difference.
    """

    noise_multiplier: float
    noise_std: float
    epsilon: float
    epsilon_round: float
    noise_to_signal: float | None
    central_noise_to_signal: float | None
    answer: Literal["yes", "perhaps", "no", "unknown"]
    reason: str


def calibrate(plan: Plan) -> Calibration:
    """Return the noise of *plan* and whether a signal survives it.

    Raises
    ------
    UsageError
        ``usage.privacy``: all that is wrong with the plan, or an epsilon that no noise gives.
    ProtocolError
        ``protocol.encoding``: no ring holds the sum finely enough.
    """
    refuse(plan.problems())
    return _at_the_site(plan) if plan.mechanism == "dp-sgd" else _shared(plan)


def _at_the_site(plan: Plan) -> Calibration:
    assert plan.batch is not None, "checked by problems()"
    steps = plan.attempts * plan.steps
    multiplier = dp_sgd_noise(rate=plan.rate, steps=steps, epsilon=plan.epsilon, delta=plan.delta)

    def spent(steps: int) -> float:
        return dp_sgd_epsilon(rate=plan.rate, noise_multiplier=multiplier, steps=steps, delta=plan.delta)

    std = multiplier * plan.clip / plan.batch
    answer, reason, ratio = _judge(plan, std, "one step's mean gradient at one site")
    return Calibration(multiplier, std, spent(steps), spent(plan.steps), ratio, ratio, answer, reason)


def _shared(plan: Plan) -> Calibration:
    assert plan.parameters is not None, "checked by problems()"
    honest = plan.smallest_set - plan.colluding
    per_site = plan.batch if plan.mechanism == "dp-fedsgd" and plan.batch is not None else 1
    opposite = plan.mechanism == "output" and plan.unit != "site"
    sensitivity = 2 * plan.clip if opposite else plan.clip
    encoding, std = plan_shared_noise(
        length=plan.parameters,
        bound=plan.clip * (per_site + 8 * math.sqrt(per_site) + 8 if plan.mechanism == "dp-fedsgd" else 1),
        sites=plan.sites,
        honest=honest,
        sensitivity=sensitivity,
        releases=plan.attempts,
        rate=plan.rate,
        epsilon=plan.epsilon,
        delta=plan.delta,
    )

    def spent(releases: int) -> float:
        return skellam_epsilon(
            sensitivity=sensitivity,
            length=encoding.length,
            scale_log2=encoding.scale_log2,
            std=std,
            releases=releases,
            rate=plan.rate,
            delta=plan.delta,
        )

    mean_of = plan.sites * per_site
    mean_std = std * math.sqrt(plan.sites / honest) / mean_of
    answer, reason, ratio = _judge(plan, mean_std, f"the mean of {plan.sites} sites")
    curator = dp_sgd_noise(rate=plan.rate, steps=plan.attempts, epsilon=plan.epsilon, delta=plan.delta)
    central = curator * sensitivity * math.sqrt(plan.parameters) / mean_of / plan.clip
    multiplier = std / sensitivity
    return Calibration(multiplier, mean_std, spent(plan.attempts), spent(1), ratio, central, answer, reason)


def _judge(
    plan: Plan, std: float, where: str
) -> tuple[Literal["yes", "perhaps", "no", "unknown"], str, float | None]:
    if plan.parameters is None:
        return "unknown", "give the number of trained parameters to compare noise with signal", None
    ratio = std * math.sqrt(plan.parameters) / plan.clip
    figure = (
        f"the noise in {where} is {_rounded(ratio)} times the clip norm "
        f"({std:.3g} on each of {plan.parameters:,} values, clip {plan.clip:g})"
    )
    if ratio > DROWNED:
        figure += ": it drowns the signal"
        if plan.unit == "site":
            return "no", f"{figure}. More sites, fewer values or a larger epsilon help", ratio
        other = (
            "dp-sgd or dp-fedsgd, which bound one unit" if plan.mechanism == "output" else "a larger batch"
        )
        return "no", f"{figure}. What helps: {other}, fewer values or a larger epsilon", ratio
    if ratio > 1:
        return "perhaps", f"{figure}: only many steps that agree average it out", ratio
    return "yes", f"{figure}: below the signal", ratio


def _rounded(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
