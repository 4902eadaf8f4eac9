"""The honest table: what federating was worth, on data that nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plasmid.tasks.metrics import FEWER_IS_BETTER


@dataclass(frozen=True)
class Table:
    """Values of one metric. None or empty where it was not measured.

    Attributes
    ----------
    metric
        The recipe's; of some, as ``"rmse"``, less is better.
    federated
        The run's adapter.
    local
        Each site alone: as many steps as a site makes in the run.
    central
        One party with all rows: as many steps as all sites make together.
    simple_central, simple_local
        A classical model on all rows, and the best of those on one site's rows.
    """

    metric: str
    federated: float | None = None
    local: Mapping[str, float] = field(default_factory=dict)
    central: float | None = None
    simple_central: float | None = None
    simple_local: float | None = None

    @property
    def best_local(self) -> tuple[str, float] | None:
        """The best single site and its value; None where there is none."""
        chosen = min if self.metric in FEWER_IS_BETTER else max
        return chosen(self.local.items(), key=lambda item: item[1], default=None)

    def as_json(self) -> dict[str, Any]:
        """Return the ``metrics`` object of the machine interface."""
        return {
            "metric": self.metric,
            "federated": self.federated,
            "local": dict(self.local),
            "central": self.central,
            "simple": {"central": self.simple_central, "local": self.simple_local},
        }

    def rows(self) -> list[tuple[str, float]]:
        """Return (what, value) of all that was measured, in the order in which people read it."""
        best = self.best_local
        found: list[tuple[str, float | None]] = [
            ("simple model, best single site", self.simple_local),
            ("simple model, all data pooled", self.simple_central),
            *((f"{site} alone", value) for site, value in self.local.items()),
            ("mean single site", sum(self.local.values()) / len(self.local) if self.local else None),
            (f"best single site ({best[0]})" if best else "", best[1] if best else None),
            ("federated", self.federated),
            ("central (all data in one place)", self.central),
        ]
        return [(what, value) for what, value in found if value is not None]

    def verdict(self) -> list[str]:
        """Return sentences that say plainly whether federating was worth it."""
        if self.federated is None:
            return []
        said = []
        if (best := self.best_local) is not None:
            mean = sum(self.local.values()) / len(self.local)
            said.append(
                f"Federated is {_against(self.federated, best[1])} the best single site and "
                f"{_against(self.federated, mean)} the mean one."
            )
        if self.central is not None:
            said.append(f"Federated is {_against(self.federated, self.central)} central training.")
        if self.simple_central is not None:
            said.append(
                f"Federated is {_against(self.federated, self.simple_central)} the pooled simple model."
            )
            worse = self.federated - self.simple_central
            if (worse > 0) if self.metric in FEWER_IS_BETTER else (worse < 0):
                said.append(
                    "On this data the simple model, if all rows could be pooled, is the better choice."
                )
        if said and self.metric in FEWER_IS_BETTER:
            said.append(f"Of {self.metric} less is better.")
        return said


def _against(value: float, other: float) -> str:
    difference = value - other
    return f"{abs(difference):.3f} {'above' if difference >= 0 else 'below'}"
