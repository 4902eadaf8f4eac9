"""Privacy facts of strangers are looked at quickly, before an accountant is asked."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.dp.plausible import MAX_EPSILON, check_plausible
from plasmid.recipes.protection import Protection
from support.federation.privacy_facts import DP_SGD, MASKED, shared

SITE = {"site": "a", "public_size": 5000, "rate": 0.01, "noise_multiplier": 0.8, "epsilon": 1.0}


def _facts(**changed: Any) -> dict[str, Any]:
    site = SITE | {name: changed.pop(name) for name in ("rate", "noise_multiplier") if name in changed}
    return DP_SGD.as_json() | {"participants": [site]} | changed


@pytest.mark.parametrize("facts", [DP_SGD, MASKED, shared()])
def test_facts_of_real_runs_pass(facts: Any) -> None:
    check_plausible(facts.as_json())


def test_the_largest_epsilon_that_a_recipe_may_ask_for_passes() -> None:
    """Else no site would countersign such a run."""
    assert Protection.model_json_schema()["properties"]["epsilon"]["anyOf"][0]["maximum"] == MAX_EPSILON
    # what :func:`plasmid.dp.accounting.dp_sgd_noise` finds for it at delta 1e-5
    honest = {"rate": 0.05, "noise_multiplier": 0.1097, "attempts": 20, "steps": 10, "delta": 1e-5}
    check_plausible(_facts(epsilon=MAX_EPSILON, **honest))


@pytest.mark.parametrize(
    "changed",
    [
        {"noise_multiplier": 0.1},
        {"rate": 0.9, "noise_multiplier": 2.0, "steps": 10**6},
        {"epsilon": 1e6},
        {"epsilon": "8"} | {"delta": 2},
        {"attempts": 10**9},
        {"noise_multiplier": float("nan")},
        {"participants": [SITE] * 1001},
        {"participants": [SITE | {"rate": 0.001 + k / 1e5} for k in range(65)]},
        {"participants": None},
    ],
)
def test_what_would_take_minutes_is_refused_at_once(changed: dict[str, Any]) -> None:
    start = time.process_time()
    with pytest.raises(ProtocolError) as caught:
        check_plausible(_facts(**changed))
    assert caught.value.code == "protocol.claims"
    assert time.process_time() - start < 5
