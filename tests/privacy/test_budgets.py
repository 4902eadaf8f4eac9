"""The arithmetic of the ledger, over random histories: never over the budget, never back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plasmid.core.errors import PolicyRefused
from plasmid.dp.budgets import Accounts, Budget, RunAccount, exact

BUDGET = Budget(unit="record", epsilon=1.0, delta=1e-5)
steps = st.tuples(
    st.sampled_from(("reserve", "spend", "release", "attempt")),
    st.sampled_from(("a", "b", "c", "d")),
    st.sampled_from((0.1, 0.2, 0.3, 0.7)),
)


def entry(accounts: Accounts, event: str, run: str, epsilon: float) -> dict[str, Any] | None:
    if event == "reserve":
        return accounts.reserve(run, RunAccount("d", "default", "record", epsilon, 1e-7, 2), BUDGET)
    if event == "attempt":
        return accounts.attempt(run, (1, 0))
    return accounts.spend(run) if event == "spend" else accounts.release(run)


@given(st.lists(steps, max_size=40))
def test_no_history_overspends_or_gives_spending_back(history: list[tuple[str, str, float]]) -> None:
    accounts, log, spent = Accounts(), [], Decimal(0)
    for event, run, epsilon in history:
        try:
            made = entry(accounts, event, run, epsilon)
        except PolicyRefused:
            continue
        if made is not None:
            accounts.apply(made)
            log.append(made)
        sums = accounts.population("default")
        assert sums.epsilon <= exact(BUDGET.epsilon)
        assert sums.spent_epsilon >= spent
        spent = sums.spent_epsilon
        assert all(known.charged <= known.attempts for known in accounts.runs.values())
    replayed = Accounts()
    for made in log:
        replayed.apply(made)
    assert replayed == accounts


def test_decimal_sums_fill_a_budget_exactly() -> None:
    accounts = Accounts()
    for number in range(10):
        made = accounts.reserve(str(number), RunAccount("d", "default", "record", 0.1, 1e-6, 1), BUDGET)
        assert made is not None
        accounts.apply(made)
    assert accounts.population("default").left(BUDGET) == (0.0, 0.0)
    with pytest.raises(PolicyRefused, match="has left epsilon 0 of 1, delta 0 of 1e-05"):
        accounts.check(RunAccount("d", "default", "record", 1e-9, 1e-9, 1), BUDGET)


@pytest.mark.parametrize(
    "event", [{"event": "forget", "run": "a"}, {"event": "spend", "run": "a"}, {"run": "a"}]
)
def test_an_entry_of_no_sense_is_an_error(event: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        Accounts().apply(event)


@pytest.mark.parametrize(
    "changed",
    [{"unit": "none"}, {"epsilon": 0}, {"epsilon": float("inf")}, {"delta": 1}, {"delta": 0}, {"more": 1}],
)
def test_a_budget_is_strict(changed: dict[str, Any]) -> None:
    assert Budget.model_validate({**BUDGET.model_dump(), "epsilon": 8}).epsilon == 8.0
    with pytest.raises(ValidationError):
        Budget.model_validate({**BUDGET.model_dump(), **changed})
