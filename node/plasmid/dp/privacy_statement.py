"""What was planned and done about privacy in a run, and the epsilons that follow from it.

Rules
-----
1. An epsilon is never stored as such: it is recomputed from rate, noise, steps and attempts.
2. A recomputed epsilon above what the ledgers were charged, or other than the one that was written beside
   the facts, is an error: nothing is claimed then.
3. Noise made in shares counts as if only m - c shares were there, whoever took part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from plasmid.core.errors import ProtocolError
from plasmid.dp import accountant
from plasmid.dp.accountant import dp_sgd_epsilon, skellam_epsilon
from plasmid.dp.canary_audit import Audit

_SAME = 1e-9


@dataclass(frozen=True)
class SiteFacts:
    """One site's own figures.

    Attributes
    ----------
    public_size
        N, the number of units that its owner declares; None for ``unit: site`` and without a unit.
    rate
        q, the probability of a unit to be in one sample; 1 where every unit always is.
    noise_multiplier
        sigma of ``dp-sgd``; None where the noise is shared, or there is none.
    """

    site: str
    public_size: int | None = None
    rate: float = 1.0
    noise_multiplier: float | None = None


@dataclass(frozen=True)
class PrivacyFacts:
    """What was planned and done.

    Attributes
    ----------
    epsilon, delta
        What every site's ledger is charged for the whole run; None without a unit.
    n, c, theta, min_sites
        Participants, colluders assumed, threshold (0 where nothing is masked), smallest survivor set m.
    attempts
        Attempts at a round that are charged, failed ones included.
    noise_std, scale_log2, length
        Shared noise: standard deviation of what m - c shares add to a sum, in real units; one ring step is
        ``2**-scale_log2``; values in the vector that is released (after padding).
    survivors
        Size of the set that each opened sum was over, by round; empty before the run.
    audit
        The outcome of the canary audit, None where there was none.
    rehearsal
        True where all parties were processes of one person.
    """

    protocol: str
    protect: Literal["masked", "none"]
    unit: Literal["none", "record", "patient", "site"]
    participants: tuple[SiteFacts, ...]
    n: int
    c: int
    theta: int
    min_sites: int
    rounds: int
    attempts: int
    steps: int = 1
    mechanism: Literal["dp-sgd", "dp-fedsgd", "output"] | None = None
    epsilon: float | None = None
    delta: float | None = None
    record_clip: float | None = None
    update_clip: float | None = None
    max_records: int | None = None
    noise_std: float | None = None
    scale_log2: int | None = None
    length: int | None = None
    survivors: tuple[int, ...] = ()
    audit: Audit | None = None
    rehearsal: bool = False

    @property
    def accountant(self) -> str | None:
        """Which accountant the epsilons come from; None without a unit."""
        if self.unit == "none":
            return None
        return accountant.DP_SGD if self.mechanism == "dp-sgd" else accountant.SKELLAM

    @property
    def sensitivity(self) -> float:
        """How far, in L2, one unit moves a sum of all sites' vectors."""
        bound = self.record_clip if self.record_clip is not None else self.update_clip
        if bound is None:
            raise ProtocolError("protocol.claims", "the facts name no clip, so nothing bounds a unit.")
        return bound if self.record_clip is not None or self.unit == "site" else 2 * bound

    def spent(self) -> dict[str, float]:
        """Return epsilon by site, recomputed from what is done; empty without a unit.

        Raises
        ------
        ProtocolError
            ``protocol.claims``: the facts lack a figure, or give more than was charged.
        """
        if self.unit == "none":
            return {}
        try:
            found = {facts.site: self._epsilon(facts) for facts in self.participants}
        except TypeError:
            raise ProtocolError(
                "protocol.claims",
                f"the facts do not hold every figure that {self.mechanism} is accounted by.",
            ) from None
        for site, epsilon in found.items():
            if self.epsilon is None or epsilon > self.epsilon * (1 + _SAME):
                raise ProtocolError(
                    "protocol.claims",
                    f"the facts give epsilon {shown(epsilon)} at {site}; the ledgers were charged "
                    f"{self.epsilon}.",
                    "Nothing is claimed about this run; its plan or its record is wrong.",
                )
        return found

    def _epsilon(self, facts: SiteFacts) -> float:
        figures: dict[str, Any] = {"delta": _given(self.delta)}
        if self.mechanism == "dp-sgd":
            steps = self.attempts * self.steps
            return dp_sgd_epsilon(
                rate=facts.rate, noise_multiplier=_given(facts.noise_multiplier), steps=steps, **figures
            )
        return skellam_epsilon(
            sensitivity=self.sensitivity,
            length=_given(self.length),
            scale_log2=_given(self.scale_log2),
            std=_given(self.noise_std),
            releases=self.attempts,
            rate=facts.rate,
            **figures,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON values, with the accountant and each site's recomputed epsilon."""
        spent = self.spent()
        values = asdict(self)
        values["participants"] = [
            {**asdict(facts), "epsilon": spent.get(facts.site)} for facts in self.participants
        ]
        values["survivors"] = list(self.survivors)
        values["audit"] = self.audit.as_json() if self.audit else None
        return {**values, "accountant": self.accountant}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PrivacyFacts:
        """Return the facts in *values*, the result of :meth:`as_json`.

        Raises
        ------
        ProtocolError
            ``protocol.claims``: they are not, or an epsilon in them does not follow from the rest.
        """
        known = dict(values)
        try:
            stored = {item["site"]: item["epsilon"] for item in known["participants"]}
            known["participants"] = tuple(
                SiteFacts(**{name: value for name, value in item.items() if name != "epsilon"})
                for item in known["participants"]
            )
            known["survivors"] = tuple(known["survivors"])
            known.pop("accountant")
            if known["audit"] is not None:
                names = Audit.__dataclass_fields__
                known["audit"] = Audit(**{name: known["audit"][name] for name in names})
            facts = cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtocolError("protocol.claims", f"the facts are not complete: {error}.") from error
        for site, epsilon in facts.spent().items():
            if stored[site] is None or not math.isclose(epsilon, stored[site], rel_tol=1e-6):
                raise ProtocolError(
                    "protocol.claims",
                    f"the epsilon beside the facts of {site}, {stored[site]}, does not follow from them.",
                    "Nothing is claimed about this run; its record was changed.",
                )
        return facts


def _given(value: Any) -> Any:
    if value is None:
        raise TypeError("a figure is missing")
    return value


def shown(value: float) -> str:
    """Return an epsilon to two decimals (three digits below 0.1), never less than it is."""
    digits = 2 if value >= 0.1 else 1 - math.floor(math.log10(value)) + 1 if value > 0 else 2
    unit = 10.0**digits
    return f"{math.ceil(value * unit * (1 - 1e-12)) / unit:.{digits}f}"
