"""The arithmetic of a ledger: what each population of people has left. No clock, no file.

Rules
-----
1. A budget belongs to a population of people, whatever view, table or connector shows them, and to one
   unit: once a run was reserved or spent for another unit, the population takes no other.
2. Within a run the accountant composes; across runs epsilons and deltas add, as decimal numbers, so that
   ten runs of 0.1 are 1.
3. The whole planned cost of a run is reserved at admission, becomes spent at the first compute, and is
   never given back from then on. What was reserved and never spent can be released.
4. An attempt is counted each time it is charged, whatever its slot: a repeat counts twice, never zero times.
5. A ledger that was carried forward (after damage or a rollback) knows only the populations that were
   named then, as spent at least as far as their budgets. Any other one counts as wholly spent.
6. Every entry about a run names the project that the run belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasmid.core.errors import PolicyRefused

Unit = Literal["record", "patient", "site"]
RunState = Literal["reserved", "spent", "released"]


class Budget(BaseModel):
    """What the owner allows one population in all: the sums of epsilons and of deltas over all runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    unit: Unit
    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)


@dataclass
class RunAccount:
    """What a ledger knows of one run.

    Attributes
    ----------
    document, project
        The digests that were admitted; entries of early ledgers name no project.
    """

    document: str
    population: str
    unit: str
    epsilon: float
    delta: float
    attempts: int
    project: str = ""
    state: RunState = "reserved"
    charged: int = 0


@dataclass
class Population:
    """Sums over a population's runs, and what was carried forward. ``unit`` is None before the first run."""

    unit: str | None = None
    spent_epsilon: Decimal = Decimal(0)
    spent_delta: Decimal = Decimal(0)
    reserved_epsilon: Decimal = Decimal(0)
    reserved_delta: Decimal = Decimal(0)

    @property
    def epsilon(self) -> Decimal:
        """Spent and reserved."""
        return self.spent_epsilon + self.reserved_epsilon

    @property
    def delta(self) -> Decimal:
        """Spent and reserved."""
        return self.spent_delta + self.reserved_delta

    def left(self, budget: Budget) -> tuple[float, float]:
        """Return the epsilon and delta of *budget* that are neither spent nor reserved, at least 0."""
        epsilon = max(Decimal(0), exact(budget.epsilon) - self.epsilon)
        return float(epsilon), float(max(Decimal(0), exact(budget.delta) - self.delta))


def exact(value: float) -> Decimal:
    """Return the decimal number that *value* is written as."""
    return Decimal(repr(float(value)))


@dataclass
class Accounts:
    """What the entries of a ledger lead to. Methods about a run return the entry to append, or None."""

    runs: dict[str, RunAccount] = field(default_factory=dict)
    carried: dict[str, list[Budget]] = field(default_factory=dict)
    carried_forward: bool = False

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take in one *entry*. Raises KeyError, TypeError, AttributeError or ValueError for a strange one."""
        match entry["event"]:
            case "reserve":
                figures = {name: entry[name] for name in ("document", "population", "unit", "attempts")}
                self.runs[entry["run"]] = RunAccount(
                    **figures,
                    epsilon=float(entry["epsilon"]),
                    delta=float(entry["delta"]),
                    project=entry.get("project", ""),
                )
            case "spend":
                self.runs[entry["run"]].state = "spent"
            case "release":
                self.runs[entry["run"]].state = "released"
            case "attempt":
                run = self.runs[entry["run"]]
                run.state = "spent"
                run.charged += 1
            case "carry":
                self.carried_forward = True
                for run in self.runs.values():  # what lost entries said of it is not known
                    run.charged = run.attempts
                    if run.state == "reserved":
                        run.state = "spent"
                for name, figures in entry["populations"].items():
                    self.carried.setdefault(name, []).append(Budget(**figures))
            case other:
                raise ValueError(f"unknown event {other}")

    def population(self, name: str, *, without: str | None = None) -> Population:
        """Return the sums of the population called *name*, less the account of the run *without*."""
        sums = Population()
        for budget in self.carried.get(name, []):
            sums.unit = budget.unit
            sums.spent_epsilon += exact(budget.epsilon)
            sums.spent_delta += exact(budget.delta)
        for key, run in self.runs.items():
            if run.population != name or run.state == "released" or key == without:
                continue
            sums.unit = run.unit
            if run.state == "spent":
                sums.spent_epsilon += exact(run.epsilon)
                sums.spent_delta += exact(run.delta)
            else:
                sums.reserved_epsilon += exact(run.epsilon)
                sums.reserved_delta += exact(run.delta)
        return sums

    def populations(self) -> dict[str, Population]:
        """Return the sums of every population that an entry names."""
        names = {run.population for run in self.runs.values()} | set(self.carried)
        return {name: self.population(name) for name in sorted(names)}

    def reserve(self, run: str, wanted: RunAccount, budget: Budget) -> dict[str, Any] | None:
        """Return the entry that reserves *wanted* for *run*; None if that was done before.

        Raises
        ------
        PolicyRefused
            ``policy.budget_unit``: the budget, or the population so far, is of another unit.
            ``policy.budget``: less is left, or the ledger holds other figures for the run.
        """
        known = self.runs.get(run)
        if known is not None and known.state != "released":
            _check_same(run, known, wanted)
            return None
        self.check(wanted, budget)
        return {"event": "reserve", "run": run, **_figures(wanted)}

    def check(self, wanted: RunAccount, budget: Budget, *, known: str | None = None) -> None:
        """Raise what :meth:`reserve` raises for a new run; for a *known* one, less its own account."""
        name = wanted.population
        sums = self.population(name, without=known)
        for owner, unit in (("the policy's budget for", budget.unit), ("what was spent of", sums.unit)):
            if unit not in (None, wanted.unit):
                raise PolicyRefused(
                    "policy.budget_unit",
                    f"the run protects unit: {wanted.unit}, but {owner} population {name!r} is "
                    f"unit: {unit}; one population has one unit.",
                    f"Ask for a recipe with unit: {unit}.",
                )
        if self.carried_forward and name not in self.carried:
            raise PolicyRefused(
                "policy.budget",
                f"the ledger was carried forward without population {name!r}, so it counts as wholly spent.",
                f"Give it a budget, then: plasmid privacy ledger --carry-forward --population {name}",
            )
        epsilon, delta = sums.left(budget)
        over_epsilon = sums.epsilon + exact(wanted.epsilon) > exact(budget.epsilon)
        if over_epsilon or sums.delta + exact(wanted.delta) > exact(budget.delta):
            raise PolicyRefused(
                "policy.budget",
                f"the run needs epsilon {wanted.epsilon:g} and delta {wanted.delta:g}; population {name!r} "
                f"has left epsilon {epsilon:g} of {budget.epsilon:g}, delta {delta:g} of {budget.delta:g}.",
                "Ask for a recipe within what is left.",
            )

    def spend(self, run: str) -> dict[str, Any] | None:
        """Return the entry that spends the reservation of *run*; None if it is spent already.

        Raises
        ------
        PolicyRefused
            ``policy.budget``: nothing is reserved for the run.
        """
        known = self._held(run)
        return None if known.state == "spent" else _event("spend", run, known)

    def release(self, run: str) -> dict[str, Any] | None:
        """Return the entry that gives back the reservation of *run*; None if it holds none."""
        known = self.runs.get(run)
        return _event("release", run, known) if known and known.state == "reserved" else None

    def attempt(self, run: str, slot: tuple[int, int]) -> dict[str, Any]:
        """Return the entry that charges one more attempt of *run*, in *slot*; it also spends the run.

        Raises
        ------
        PolicyRefused
            ``policy.budget``: nothing is reserved. ``policy.attempts``: all reserved attempts are charged.
        """
        known = self._held(run)
        if known.charged >= known.attempts:
            raise PolicyRefused(
                "policy.attempts",
                f"all {known.attempts} attempts that run {run} reserved are charged.",
                "The run cannot go on; plan the next one with more federation.spare_attempts.",
            )
        return {**_event("attempt", run, known), "slot": list(slot)}

    def carry(self, budgets: Mapping[str, Budget]) -> dict[str, Any]:
        """Return the entry after which each of *budgets* is wholly spent, and every other population too."""
        return {"event": "carry", "populations": dict(self._missing(budgets))}

    def _missing(self, budgets: Mapping[str, Budget]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, budget in sorted(budgets.items()):
            sums, least = self.population(name), 1e-12
            # a population that is spent beyond its budget still gets a line, so that it is known
            epsilon = max(float(exact(budget.epsilon) - sums.epsilon), least)
            delta = max(float(exact(budget.delta) - sums.delta), least)
            yield name, {"unit": budget.unit, "epsilon": epsilon, "delta": delta}

    def _held(self, run: str) -> RunAccount:
        known = self.runs.get(run)
        if known is None or known.state == "released":
            raise PolicyRefused(
                "policy.budget", f"the ledger holds no reservation for run {run}.", "Start a new run."
            )
        return known


def _event(event: str, run: str, known: RunAccount) -> dict[str, Any]:
    return {"event": event, "run": run, "project": known.project}


def _figures(run: RunAccount) -> dict[str, Any]:
    names = ("document", "project", "population", "unit", "epsilon", "delta", "attempts")
    return {name: getattr(run, name) for name in names}


def _check_same(run: str, known: RunAccount, wanted: RunAccount) -> None:
    if _figures(known) != _figures(wanted):
        raise PolicyRefused(
            "policy.budget",
            f"the ledger holds other figures for run {run}: epsilon {known.epsilon:g}, "
            f"delta {known.delta:g}, unit: {known.unit}, population {known.population!r}.",
            "One run has one document and one project; start a new run.",
        )
