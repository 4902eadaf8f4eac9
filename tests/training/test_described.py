"""What is said of a stranger's repository, whatever is in its files."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.dp.privacy_statement import shown
from plasmid.exchange.description import _measured, privacy_of
from support.federation.privacy_facts import DP_SGD, MASKED


def test_the_promise_and_against_whom() -> None:
    found = privacy_of({"run": "r", "privacy": DP_SGD.as_json()})
    assert (found["unit"], found["epsilon"], found["delta"]) == ("record", 8.0, 1e-5)
    assert found["spent"] == max(DP_SGD.spent().values())
    promise, against = found["statement"]
    assert promise.startswith(f"({shown(found['spent'])}, 1e-05)-differential privacy for any one record")
    assert against.startswith("It holds against everyone who sees anything outside the site")
    assert privacy_of({"privacy": MASKED.as_json()})["unit"] == "none"


@pytest.mark.parametrize(
    "privacy",
    [
        None,
        [],
        {"participants": 3},
        DP_SGD.as_json() | {"n": "five", "c": None},
        DP_SGD.as_json() | {"unit": "everyone"},
        DP_SGD.as_json() | {"participants": [{"site": "a"}]},
        DP_SGD.as_json() | {"survivors": ["x", 1]},
    ],
)
def test_facts_that_cannot_be_read_promise_nothing(privacy: Any) -> None:
    found = privacy_of({"privacy": privacy})
    assert (found["unit"], found["epsilon"], found["spent"]) == (None, None, None)
    assert len(found["statement"]) == 1


def test_a_run_s_table_becomes_a_line() -> None:
    table = {"metric": "auc", "federated": 0.71787, "local": {"a": 0.6, "b": 0.6764}, "central": None}
    assert list(_measured(table)) == ["auc on unseen data: federated 0.718, best single site 0.676"]
    table["metric"] = "rmse"  # of which less is better
    assert list(_measured(table)) == ["rmse on unseen data: federated 0.718, best single site 0.600"]
    assert list(_measured({"metric": ["auc"], "federated": 0.7})) == []
    assert list(_measured({"metric": "auc", "federated": "0.7", "local": [1.0], "central": True})) == []


def test_parents_without_end_are_not_followed() -> None:
    origin: dict[str, Any] = {"run": "r", "privacy": DP_SGD.as_json()}
    for _ in range(20):
        origin = {"schema": "plasmid.provenance.merge/1", "parents": [{"origin": origin}]}
    assert "generations" in privacy_of(origin)["statement"][0]
