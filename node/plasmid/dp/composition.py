"""What an adapter that is merged from others promises: their runs' epsilons and deltas, put together.

Rules
-----
1. Merging reads no rows, so it costs nothing by itself, and a run that stands behind several parents counts
   once.
2. Nobody knows who is in the data of two runs. Unless the caller states that nobody is, epsilons and deltas
   add (basic composition), as decimal numbers; if so, the largest count (parallel composition).
3. One figure needs one unit. Where units differ, each run's own promise is repeated, and none is made for the
   child: what protects a patient against one run does not bound what another one tells of that patient.
4. A run without a unit, or one that nothing is known of, leaves the child without a promise.
5. Each epsilon is recomputed from the facts (:meth:`PrivacyFacts.spent`); the charged one is what ledgers
   hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plasmid.dp.budgets import exact
from plasmid.dp.claims import UNITS
from plasmid.dp.privacy_statement import PrivacyFacts, shown


@dataclass(frozen=True)
class Composed:
    """What holds for the child.

    Attributes
    ----------
    unit
        ``none``: no promise; ``several``: units differ.
    spent
        The epsilon that the facts give; None without one figure.
    epsilon, delta
        Charged to ledgers in all, and delta; None without one figure.
    disjoint
        Whether somebody states that nobody is in the data of two runs.
    runs
        The facts by run; None where nothing is known.
    """

    unit: Literal["none", "several", "record", "patient", "site"]
    spent: float | None
    epsilon: float | None
    delta: float | None
    disjoint: bool
    runs: Mapping[str, PrivacyFacts | None]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, for ``provenance.json``; the runs' own facts are beside the parents there."""
        return {
            "unit": self.unit,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "spent": self.spent,
            "composition": "parallel" if self.disjoint else "basic",
            "runs": sorted(self.runs),
        }


def compose(runs: Mapping[str, PrivacyFacts | None], *, disjoint: bool = False) -> Composed:
    """Return what holds for an adapter made from those of *runs*.

    Raises
    ------
    ProtocolError
        ``protocol.claims``: the facts of a run contradict one another.
    """
    known = [facts for facts in runs.values() if facts is not None and facts.unit != "none"]
    if not runs or len(known) < len(runs):
        return Composed("none", None, None, None, disjoint, runs)
    units = {facts.unit for facts in known}
    if len(units) > 1:
        for facts in known:
            facts.spent()  # what contradicts itself is told here, not when it is printed
        return Composed("several", None, None, None, disjoint, runs)
    together: Any = max if disjoint else sum
    spent = [exact(max(facts.spent().values())) for facts in known]
    epsilons = [exact(facts.epsilon or 0.0) for facts in known]
    deltas = [exact(facts.delta or 0.0) for facts in known]
    charged, delta = float(together(epsilons)), float(together(deltas))
    return Composed(known[0].unit, float(together(spent)), charged, delta, disjoint, runs)


def composed_statement(composed: Composed) -> list[str]:
    """Return what holds for the child, and what does not, one thought an item."""
    lines = []
    if any(facts is not None and facts.rehearsal for facts in composed.runs.values()):
        lines.append("A run behind it is a rehearsal: every party was a process of one person.")
    silent = sorted(run for run, facts in composed.runs.items() if facts is None or facts.unit == "none")
    if composed.unit == "none":
        which = f": {', '.join(silent)} had none, or nothing is known of it" if silent else ""
        lines.append(
            f"There is no differential privacy in this adapter{which}. Nothing bounds what it reveals about "
            "a record, a person or a site."
        )
    elif composed.unit == "several":
        lines.append(
            "No one figure holds for this adapter: the runs behind it protect different units. Each line "
            "below bounds what that run reveals, and no more."
        )
    else:
        worst, delta = shown(composed.spent or 0.0), f"{composed.delta:g}"
        lines.append(
            f"({worst}, {delta})-differential privacy for {UNITS[composed.unit]}: adding or removing it "
            f"changes the probability of any such adapter by a factor of at most e^{worst}, but for a "
            f"probability of {delta}. The ledgers' charges come to epsilon {composed.epsilon:g}."
        )
        lines.append(
            "That is the largest of the runs' epsilons: whoever merged states that nobody is in the data of "
            "two of them. Nothing checks that."
            if composed.disjoint
            else "The runs' epsilons and deltas are added, because a person may be in the data of several."
        )
    lines += [_of_run(run, facts) for run, facts in sorted(composed.runs.items()) if facts is not None]
    if composed.unit != "none":
        lines.append("Merging reads no data and costs nothing; a run behind several parents counts once.")
    return lines


def _of_run(run: str, facts: PrivacyFacts) -> str:
    if facts.unit == "none":
        return f"{run}: no differential privacy."
    worst = shown(max(facts.spent().values()))
    against = (
        "against everyone outside the site"
        if facts.mechanism == "dp-sgd"
        else f"against the coordinator with up to {facts.c} of its {facts.n} sites, each site, and who has it"
    )
    return f"{run}: epsilon {worst} at delta {facts.delta:g} for {UNITS[facts.unit]}, {against}."
