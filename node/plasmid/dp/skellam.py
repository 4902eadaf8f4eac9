"""Noise shared inside the secure sum: Skellam shares, accounted as if only m - c of them were there.

Rules
-----
1. Every site adds a Skellam share of variance V / (m - c) in squared ring steps. Sums of Skellam values are
   Skellam, so any m - c honest survivors give variance V; what the others add is never counted, whether
   they take part or not.
2. The mechanism is accounted in Rényi divergence at whole orders alpha > 1 (Agarwal, Kairouz and Liu 2021,
   "The Skellam mechanism for differentially private federated learning", theorem 3.5), with mu = V:
   alpha D2^2 / (2 mu) + min(((2 alpha - 1) D2^2 + 6 D1) / (4 mu^2), 3 D1 / (2 mu)).
   Accounting it as a Gaussian of the same variance would ignore steps and rounding, and report less.
3. D2 = s C + sqrt(d) and D1 = sqrt(d) D2 for a vector of d values, L2 sensitivity C and s steps per unit:
   each value of both neighbouring sums is rounded by at most half a step. Where sqrt(d) is more than 2% of
   s C, rounding would inflate the sensitivity noticeably, and the plan is refused.
4. All releases of a plan compose by adding their divergences; dp-accounting turns the sum into (epsilon,
   delta), with the samplers' distance charged as in :mod:`plasmid.dp.accounting`.
5. Under Poisson sampling at rate q each order is amplified by :func:`amplified`, whose docstring has the
   theorem, its condition and why Skellam noise meets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from dp_accounting.rdp import compute_epsilon
from numpy.typing import NDArray

from plasmid.core.errors import ProtocolError
from plasmid.dp.accountant import check_plan, refuse
from plasmid.dp.accounting import SAMPLERS, charged
from plasmid.secagg.ring import Encoding, RingBits, plan_encoding

MOST_SHARES = 2**10
"""Shares that are counted in one sum, at most; each is drawn by itself."""

MAX_ROUNDING = 0.02
"""Largest sqrt(d) as a part of s C."""

_MOST_STEPS = 2.0**23
"""Largest standard deviation of a planned share, in steps. The sampler takes eight times as much, for an
epoch in which fewer honest sites carry the noise."""

ORDERS = np.array([*range(2, 129), *range(136, 257, 8), *range(288, 513, 32), 768, 1024])


def skellam_epsilon(
    *,
    sensitivity: float,
    length: int,
    scale_log2: int,
    std: float,
    releases: int,
    rate: float,
    delta: float,
) -> float:
    """Return epsilon at *delta* of *releases* sums of vectors of *length* values.

    Parameters
    ----------
    sensitivity
        L2 distance C of two sums that differ in one unit, in real units.
    scale_log2
        One ring step is ``2**-scale_log2``.
    std
        Standard deviation, in real units, of the noise that the m - c honest shares alone give.
    rate
        Probability of each unit to be in a release's Poisson sample; 1 where every unit always is.

    Raises
    ------
    UsageError
        ``usage.privacy``: a figure outside its range.
    ProtocolError
        ``protocol.encoding``: steps so coarse that rounding would inflate the sensitivity.
    """
    problems = check_plan(rate=rate, releases=releases, delta=delta)
    for name, value in (("sensitivity", sensitivity), ("noise", std), ("length", length)):
        if not 0 < value < math.inf:
            problems.append(f"the {name} must be above 0, not {value:g}")
    refuse(problems)
    scaled = math.ldexp(sensitivity, scale_log2)
    if math.sqrt(length) > MAX_ROUNDING * scaled:
        raise ProtocolError(
            "protocol.encoding",
            f"rounding {length} values to steps of 2^{-scale_log2} would inflate the sensitivity of "
            f"{sensitivity:g} by {math.sqrt(length) / scaled:.0%}; at most {MAX_ROUNDING:.0%} is accepted.",
            "Use a wider ring, a larger clip or fewer values.",
        )
    d2 = scaled + math.sqrt(length)
    variance = math.ldexp(std, scale_log2) ** 2
    per_release = amplified(lambda order: skellam_rdp(order, d2, math.sqrt(length) * d2, variance), rate)
    orders, divergences = ORDERS.tolist(), (releases * per_release).tolist()
    epsilon = float(compute_epsilon(orders, divergences, delta * (1 - SAMPLERS))[0])
    return charged(epsilon, delta, releases * length * MOST_SHARES)


def skellam_rdp(order: NDArray[np.int64], d2: float, d1: float, variance: float) -> NDArray[np.float64]:
    """Return the bound on the Rényi divergence at whole *order* > 1; d1, d2 and variance are in steps."""
    second = ((2 * order - 1) * d2**2 + 6 * d1) / (4 * variance**2)
    bound: NDArray[np.float64] = order * d2**2 / (2 * variance) + np.minimum(second, 3 * d1 / (2 * variance))
    return bound


def amplified(rdp: Callable[[NDArray[np.int64]], NDArray[np.float64]], rate: float) -> NDArray[np.float64]:
    """Return the Rényi divergence at :data:`ORDERS` of a mechanism on a Poisson sample of *rate* q.

    For whole alpha, with R = *rdp* a bound on both D_k(P || Q) and D_k(Q || P) for every k up to alpha,

        (alpha - 1) R'(alpha) = log((1-q)^(alpha-1) (1 + (alpha-1) q)
                                    + sum_{k=2..alpha} C(alpha,k) (1-q)^(alpha-k) q^k e^((k-1) R(k))).

    Theorem. P and Q are the outputs with and without the unit, given everybody else's sample (Rényi
    divergence is quasi-convex, so the worst such pair bounds the mixture). With the unit sampled the output
    is M = (1-q) Q + q P. The direction D_alpha(M || Q) is the binomial expansion itself (Zhu and Wang 2019,
    "Poisson subsampled Rényi differential privacy"; Mironov, Talwar and Zhang 2019). The direction
    D_alpha(Q || M) is no larger if an involution of the outputs exchanges P and Q (Mironov, Talwar and Zhang
    2019, "Rényi differential privacy of the sampled Gaussian mechanism", theorem 5).

    Condition. Adding independent noise whose distribution is symmetric about 0 meets it: z -> shift - z
    exchanges Q (noise) and P (shift + noise), on whole numbers as on reals. Skellam noise is symmetric. For
    a mechanism without such an involution this function claims nothing.

    Proof of the second direction, for whole and real alpha >= 1. With r = P/Q, a = 1-q+qr and b = 1-q+q/r,
    the involution gives 2 E_Q[a^alpha - a^(1-alpha)] = E_Q[h], h = a^alpha - a^(1-alpha) + r (b^alpha -
    b^(1-alpha)). For r >= 1, with t = log a >= u = log(1/b) >= 0 (as a b >= 1) and beta = alpha - 1/2,
    h / 2 = sqrt(a) sinh(beta t) - r sqrt(b) sinh(beta u). It is 0 at beta = 1/2 for every r, and
    sinh(beta t) / sinh(t/2) rises with t, so h >= 0; r < 1 follows from h(1/r) = h(r) / r.
    """
    if rate == 1:
        return rdp(ORDERS)
    every = np.arange(2, ORDERS[-1] + 1)
    exponents = _binomial(rate)[:, 2:] + (every - 1) * rdp(every)
    first = (ORDERS - 1) * math.log1p(-rate) + np.log1p((ORDERS - 1) * rate)
    terms = np.concatenate([first[:, None], exponents], axis=1)
    most = terms.max(axis=1)
    total = most + np.log(np.exp(terms - most[:, None]).sum(axis=1))
    return np.asarray(np.maximum(total, 0.0) / (ORDERS - 1), np.float64)


@cache
def _binomial(rate: float) -> NDArray[np.float64]:
    """Return log of C(alpha, k) (1-q)^(alpha-k) q^k for alpha in ORDERS and k from 0, -inf for k > alpha."""
    most = int(ORDERS[-1])
    factorials = np.array([math.lgamma(k + 1) for k in range(most + 1)])
    order, k = ORDERS[:, None], np.arange(most + 1)[None, :]
    rest = np.maximum(order - k, 0)
    logs = (
        factorials[order] - factorials[k] - factorials[rest] + rest * math.log1p(-rate) + k * math.log(rate)
    )
    return np.where(k <= order, logs, -np.inf)


@cache
def plan_shared_noise(
    *,
    length: int,
    bound: float,
    sites: int,
    honest: int,
    sensitivity: float,
    releases: int,
    rate: float,
    epsilon: float,
    delta: float,
) -> tuple[Encoding, float]:
    """Return how vectors are written and the smallest noise that keeps (*epsilon*, *delta*).

    The coordinator and every site compute it from the same public figures and compare.

    Parameters
    ----------
    bound
        Largest absolute value of one site's un-noised coordinate.
    honest
        m - c: the shares that are counted.

    Returns
    -------
    encoding
        In a ring of 32 bits where the noise fits, else 64; ``noise_variance`` is that of one share.
    std
        Standard deviation of what *honest* shares add to the sum, in real units, rounded up to 6 digits.

    Raises
    ------
    UsageError
        ``usage.privacy``: a figure outside its range.
    ProtocolError
        ``protocol.encoding``: no ring holds the sum finely enough.
    """
    problems = check_plan(rate=rate, releases=releases, epsilon=epsilon, delta=delta)
    if not 0 < sensitivity < math.inf:
        problems.append(f"the sensitivity must be above 0, not {sensitivity:g}")
    if not 1 <= honest <= sites:
        problems.append(f"the shares counted must be 1 to {sites}, the sites, not {honest}")
    refuse(problems)

    def encoding_of(std: float, bits: RingBits) -> Encoding:
        share = std / math.sqrt(honest)
        plan = plan_encoding(length=length, bound=bound, sites=sites, bits=bits, noise_std=share)
        scale_log2 = min(plan.scale_log2, math.floor(math.log2(_MOST_STEPS / share)))
        return replace(plan, scale_log2=scale_log2, noise_variance=math.ldexp(std, scale_log2) ** 2 / honest)

    def fits(std: float, bits: RingBits) -> bool:
        scale_log2 = encoding_of(std, bits).scale_log2
        spent = skellam_epsilon(
            sensitivity=sensitivity,
            length=length,
            scale_log2=scale_log2,
            std=std,
            releases=releases,
            rate=rate,
            delta=delta,
        )
        return spent <= epsilon

    start = sensitivity * math.sqrt(2 * releases * math.log(1 / delta)) / epsilon  # in theory, unsampled
    try:
        std = _smallest(lambda std: fits(std, 32), start)
        return encoding_of(std, 32), std
    except ProtocolError:
        std = _smallest(lambda std: fits(std, 64), start)
        return encoding_of(std, 64), std


def _smallest(fits: Callable[[float], bool], start: float) -> float:
    """Return the smallest noise that *fits*, rounded up to 6 digits. A refusal on the way up is passed on."""
    low = start
    while fits(low):
        low /= 2
    high = low
    while not fits(high):
        low, high = high, high * 1.25
    while high / low > 1 + 1e-7:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    rounded = _round_up(high)
    while not fits(rounded):  # a coarser step began in between
        rounded = _round_up(rounded * 1.000_01)
    return rounded


def _round_up(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return float(f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.6g}")
