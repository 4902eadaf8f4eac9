"""What each population has spent, reserved and left, as the verb and the page show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasmid.core.errors import PolicyRefused
from plasmid.dp.budgets import Population
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Budget, Ledger
from plasmid.gateway.policy.file import read_policy


def budgets_of(home: SiteHome) -> dict[str, Budget]:
    """Return the budgets of the policy; none where there is no policy."""
    try:
        return dict(read_policy(home.policy).budgets)
    except PolicyRefused as error:
        if error.code != "policy.absent":
            raise
        return {}


def budget_rows(ledger: Ledger, budgets: Mapping[str, Budget]) -> list[dict[str, Any]]:
    """Return a row for each population that has a budget or an account, as JSON values, by name.

    ``epsilon`` and ``delta`` are ``{budget, spent, reserved, left}``; budget and left are None without one.
    """
    spent = ledger.summary()
    rows = []
    for name in sorted({*budgets, *spent}):
        budget, sums = budgets.get(name), spent.get(name, Population())
        row: dict[str, Any] = {"population": name, "unit": budget.unit if budget else sums.unit}
        left = sums.left(budget) if budget else (None, None)
        for figure, rest in zip(("epsilon", "delta"), left, strict=True):
            row[figure] = {
                "budget": getattr(budget, figure) if budget else None,
                "spent": float(getattr(sums, f"spent_{figure}")),
                "reserved": float(getattr(sums, f"reserved_{figure}")),
                "left": rest,
            }
        rows.append(row)
    return rows
