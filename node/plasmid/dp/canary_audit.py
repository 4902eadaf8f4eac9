"""What a canary audit proves: a lower bound on epsilon from guesses who was trained on.

Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run", https://arxiv.org/abs/2305.08846.

Rules
-----
1. Each of m canaries was included with probability 1/2 by its own coin. The auditor sees the result of the
   run and guesses r of the coins, fixed before it looks; v guesses are right.
2. Under (epsilon, delta)-DP for one canary, P[at least v right] <= beta + 2 m delta alpha, where W ~
   Binomial(r, e^epsilon / (1 + e^epsilon)), beta = P[W >= v] and alpha = max over i in 1..v of
   P[v > W >= v - i] / i (Theorem 5.2, and the program of Appendix D).
3. The bound is the largest epsilon that this p-value rejects at the confidence. Sites pool by adding up
   their canaries, guesses and right guesses: their coins are independent.
4. The verdict is ``failed`` where the bound exceeds the epsilon it is compared with, ``no power`` where even
   right guesses alone could not have exceeded it, and ``passed`` otherwise. An audit never proves privacy.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from numpy.typing import NDArray

from plasmid.core.errors import ProtocolError
from plasmid.dp.accountant import audit_bound

CONFIDENCE = 0.95
"""At which a bound holds: a private run fails its audit with at most the remaining probability."""

Verdict = Literal["passed", "failed", "no power"]


def planned_guesses(canaries: int) -> int:
    """Return how many of *canaries* are guessed: a quarter, all of them "out"; no guess is made on the rest.

    Fixed beforehand, because choosing it after a look at the scores voids the p-value. "In" is never guessed:
    a model that learned all canaries by heart still agrees by chance with the label of about half of those
    that it never saw (with two labels), so such guesses are wrong too often to show an epsilon above 2. The
    other half of those, a quarter of all, stands out.
    """
    return canaries // 4


@dataclass(frozen=True)
class Audit:
    """The outcome of one audit.

    Attributes
    ----------
    canaries, guesses, right
        Over all sites that answered.
    epsilon, delta
        What the bound is compared with: the ledger's, or without a unit the recipe's ``max_audited_epsilon``
        and 0.
    """

    canaries: int
    guesses: int
    right: int
    epsilon: float
    delta: float
    confidence: float = CONFIDENCE

    @classmethod
    def of_sum(cls, total: NDArray[Any], *, sites: int, canaries: int, epsilon: float, delta: float) -> Audit:
        """Return the audit of a sum [guesses, right] over *sites* sites with *canaries* each.

        Raises
        ------
        ProtocolError
            ``protocol.audit``: the sum is not that of so many sites.
        """
        expected = planned_guesses(canaries) * sites
        guesses, right = (round(float(value)) for value in total)
        if guesses != expected or not 0 <= right <= guesses:
            raise ProtocolError(
                "protocol.audit",
                f"{right} right of {guesses} guesses about canaries, where {sites} sites make {expected}.",
                "A site did not audit as the recipe says; the audit says nothing.",
            )
        return cls(sites * canaries, guesses, right, epsilon, delta)

    @cached_property
    def bound(self) -> float:
        """Epsilon is at least this."""
        return self._bound(self.right)

    @cached_property
    def possible(self) -> float:
        """The largest bound that these guesses could have shown, all of them right."""
        return self._bound(self.guesses)

    def _bound(self, right: int) -> float:
        return audit_bound(
            canaries=self.canaries,
            guesses=self.guesses,
            right=right,
            delta=self.delta,
            confidence=self.confidence,
        )

    @property
    def verdict(self) -> Verdict:
        """``failed``, ``no power`` or ``passed``."""
        if self.bound > self.epsilon:
            return "failed"
        return "no power" if self.possible < self.epsilon else "passed"

    def as_json(self) -> dict[str, Any]:
        """Return the figures, bounds, verdict and sentence as JSON values."""
        return {
            **asdict(self),
            "bound": self.bound,
            "possible": self.possible,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }

    @property
    def sentence(self) -> str:
        """The outcome for people."""
        found = (
            f"{self.right:,} of {self.guesses:,} guesses about {self.canaries:,} canaries were right, which "
            f"shows epsilon >= {_down(self.bound)} at {self.confidence:.0%} confidence (delta {self.delta:g})"
        )
        held, possible = f"the {self.epsilon:g} that it is held against", _down(self.possible)
        match self.verdict:
            case "failed":
                return f"Canary audit FAILED: {found}, more than {held}."
            case "passed":
                return f"Canary audit passed: {found}, within {held}; up to {possible} could have been shown."
            case "no power":
                return (
                    f"Canary audit without power: {found}, but at most {possible} could have been shown, "
                    f"less than {held}: it says nothing for or against it."
                )


def _down(value: float) -> str:
    """Return a bound to two decimals, never more than it is."""
    return f"{math.floor(100 * value) / 100:.2f}"
