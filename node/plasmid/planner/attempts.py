"""How an attempt's vectors are written: one function, computed at both ends and compared.

Rules
-----
1. Everything follows from the document, the computation's shape, the sites and c of this epoch, and what the
   run's first epoch fixed (:class:`~plasmid.protocol.messages.Planned`), which no later epoch may change.
2. The fixed-point step and the noise of a whole sum are the first epoch's for the whole run, so that every
   release of the run is one of the same kind and composes as planned; what changes with the roster is one
   site's share of the noise.
3. Shared noise is sized so that the shares of ``m - c`` sites alone give it (m the smallest survivor set).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from plasmid.computations.api import Shape
from plasmid.core.errors import RecipeError
from plasmid.dp.accountant import dp_sgd_noise, plan_shared_noise
from plasmid.dp.rotation import padded_length
from plasmid.protocol.messages import Planned
from plasmid.secagg.ring import Encoding, check_no_overflow, plan_encoding
from plasmid.secagg.roster import threshold

AUDIT_LENGTH = 2
_WIDER = "Raise adapter.sketch_width to the sum of the sites' ranks, or invite fewer of them."
_ROTATED_BEYOND = 1e-9
"""The chance that any coordinate of a rotated vector is clamped; a vector's norm is at most its bound."""


@dataclass(frozen=True)
class AttemptPlan:
    """The public numbers of an attempt.

    Attributes
    ----------
    encoding
        How vectors are written, one site's share of the noise included.
    theta, min_sites
        The threshold of the shares (0 where nothing is masked), and m.
    noise_std
        Standard deviation, in real units, of what ``m - c`` shares add to the sum; 0 without shared noise.
    """

    encoding: Encoding
    theta: int
    min_sites: int
    noise_std: float


def smallest_set(document: Any, *, sites: int, c: int) -> tuple[int, int]:
    """Return theta (0 where nothing is masked) and m, the smallest survivor set."""
    theta = threshold(sites, c) if document.privacy.protect == "masked" else 0
    return theta, max(theta, document.federation.min_sites)


def attempts(document: Any) -> int:
    """Return how many attempts at a round a run may take in all, the spare ones included."""
    return int(document.rounds + document.federation.spare_attempts)


def sampling_rate(document: Any, size: int) -> float:
    """Return q, the chance of each of *size* units to be in one sample; 1 where nothing is sampled."""
    training = getattr(document, "training", None)
    if training is None or document.privacy.mechanism == "output":
        return 1.0
    return min(1.0, float(training.batch) / size)


def step_noise(document: Any, rate: float) -> float | None:
    """Return the noise multiplier of ``dp-sgd`` at *rate* over all attempts; None for other mechanisms."""
    privacy = document.privacy
    if privacy.mechanism != "dp-sgd":
        return None
    steps = attempts(document) * document.training.steps
    return dp_sgd_noise(rate=rate, steps=steps, epsilon=privacy.epsilon, delta=privacy.delta)


def check_sites(document: Any, shape: Shape, sites: int) -> None:
    """Raise RecipeError (``recipe.most_sites``) if no sum of so many sites can be taken apart."""
    if shape.most_sites is not None and sites > shape.most_sites:
        raise RecipeError(
            "recipe.most_sites",
            f"{document.computation} recovers the sum of {shape.most_sites} sites as the recipe has it, "
            f"and {sites} take part.",
            _WIDER,
        )


def check_ranks(document: Any, shape: Shape, roster: Iterable[str]) -> None:
    """Raise RecipeError (``recipe.most_sites``) if the sum of the sites of *roster* cannot be taken apart."""
    if shape.most_sites is None:
        return
    names, adapter = list(roster), document.adapter
    check_sites(document, shape, len(names))
    ranks = sum(adapter.rank_of(site) for site in names)
    if ranks > adapter.sketch_width:
        raise RecipeError(
            "recipe.most_sites",
            f"the ranks of the {len(names)} sites that take part add up to {ranks}, and "
            f"{document.computation} recovers a sum of rank {adapter.sketch_width} as the recipe has it.",
            _WIDER,
        )


def attempt_plan(document: Any, shape: Shape, *, sites: int, c: int, planned: Planned) -> AttemptPlan:
    """Return the plan of an attempt of the training phase.

    Raises
    ------
    ProtocolError
        As :func:`plasmid.secagg.ring.plan_encoding` and
        :func:`plasmid.dp.skellam.plan_shared_noise`.
    RecipeError
        As :func:`check_sites` and :func:`sensitivity`; ``recipe.noise_swamps``: noise would leave no answer.
    """
    check_sites(document, shape, sites)
    theta, m = smallest_set(document, sites=sites, c=c)
    privacy = document.privacy
    if not privacy.shares_noise:
        encoding = plan_encoding(
            length=shape.schema.size, bound=shape.bound, sites=planned.sites, bits=shape.bits
        )
        check_no_overflow(encoding, sites)
        return AttemptPlan(encoding, theta, m, 0.0)
    _, planned_m = smallest_set(document, sites=planned.sites, c=planned.c)
    length, bound = shape.schema.size, shape.bound
    if privacy.rotation == "hadamard":
        length = padded_length(length)
        bound = min(bound, bound * math.sqrt(2.0 * math.log(2.0 * length / _ROTATED_BEYOND) / length))
    encoding, std = plan_shared_noise(
        length=length,
        bound=bound,
        sites=planned.sites,
        honest=planned_m - planned.c,
        sensitivity=sensitivity(document, shape),
        releases=attempts(document),
        rate=planned.noise_rate,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
    )
    _check_noise(document, shape, std, sites)
    share = math.ldexp(std, encoding.scale_log2) ** 2 / (m - c)
    encoding = replace(encoding, noise_variance=share)
    check_no_overflow(encoding, sites)
    return AttemptPlan(encoding, theta, m, std)


def _check_noise(document: Any, shape: Shape, std: float, sites: int) -> None:
    if shape.most_noise is not None and std > shape.most_noise * sites:
        epsilon, most = document.privacy.epsilon, shape.most_noise * sites
        raise RecipeError(
            "recipe.noise_swamps",
            f"epsilon {epsilon:g} asks for noise of a standard deviation of {std:.2f} in each number that "
            f"{document.computation} sums; over {sites} sites more than {most:.2f} would leave no answer.",
            f"It needs {math.ceil(std / shape.most_noise)} sites, a larger epsilon, or fewer cells.",
        )


def audit_plan(document: Any, *, sites: int, c: int, planned: Planned) -> AttemptPlan:
    """Return the plan of the audit's one attempt: (guesses, right), whole numbers, exact."""
    theta, m = smallest_set(document, sites=sites, c=c)
    bound = float(document.privacy.audit.canaries)
    encoding = plan_encoding(length=AUDIT_LENGTH, bound=bound, sites=planned.sites, bits=32)
    return AttemptPlan(encoding, theta, m, 0.0)


def sensitivity(document: Any, shape: Shape) -> float:
    """Return how far, in L2, one unit's presence moves the sum of all sites' vectors.

    Raises
    ------
    RecipeError
        ``recipe.no_norm``: mechanism ``output`` for a computation that bounds no L2 norm.
    """
    privacy = document.privacy
    if privacy.record_clip is not None:
        return float(privacy.record_clip)
    if shape.norm is None:
        raise RecipeError(
            "recipe.no_norm",
            f"mechanism: output needs a vector of bounded L2 norm; {document.computation} has none.",
            "Use mechanism: dp-fedsgd, which clips every record.",
        )
    # A site comes or goes with a vector of this norm; a record may turn it into its opposite.
    return shape.norm if privacy.unit == "site" else 2.0 * shape.norm
