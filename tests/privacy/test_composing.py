"""Privacy of merged adapters: figures by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.dp.composition import compose, composed_statement
from plasmid.dp.privacy_statement import shown
from support.federation.privacy_facts import DP_SGD, MASKED, shared


def test_epsilons_and_deltas_add_because_people_may_be_in_both() -> None:
    other = replace(DP_SGD, epsilon=0.1 + 8, delta=2e-5)
    found = compose({"r1": DP_SGD, "r2": other})
    spent = max(DP_SGD.spent().values()) + max(other.spent().values())
    assert found.unit == "record"
    assert found.epsilon == 16.1  # 8 + 8.1, as decimal numbers
    assert found.delta == pytest.approx(3e-5, rel=1e-12)
    assert found.spent == pytest.approx(spent, rel=1e-12)
    first = composed_statement(found)[0]
    assert first.startswith(f"({shown(spent)}, 3e-05)-differential privacy for any one record at a site")
    assert "charges come to epsilon 16.1" in first
    assert "added" in composed_statement(found)[1]
    assert sum("against everyone outside the site" in line for line in composed_statement(found)) == 2
    assert found.as_json()["runs"] == ["r1", "r2"]


def test_the_largest_counts_where_somebody_states_that_nobody_is_in_both() -> None:
    other = shared()
    found = compose({"r1": DP_SGD, "r2": other}, disjoint=True)
    assert (found.epsilon, found.delta) == (8.0, 1e-5)
    assert found.spent == max(*DP_SGD.spent().values(), *other.spent().values())
    assert found.as_json()["composition"] == "parallel"
    lines = composed_statement(found)
    assert "Nothing checks that" in lines[1]
    assert any("with up to 1 of its 5 sites" in line for line in lines)


def test_units_that_differ_have_no_common_figure() -> None:
    found = compose({"r1": DP_SGD, "r2": replace(DP_SGD, unit="patient", max_records=3)})
    assert (found.unit, found.epsilon, found.spent) == ("several", None, None)
    lines = composed_statement(found)
    assert lines[0].startswith("No one figure holds")
    assert any(line.startswith("r2: epsilon") and "one patient" in line for line in lines)


@pytest.mark.parametrize("other", [MASKED, None])
def test_one_run_without_a_unit_leaves_nothing_to_promise(other: object) -> None:
    found = compose({"r1": DP_SGD, "r2": other})  # type: ignore[dict-item]
    assert (found.unit, found.epsilon, found.delta) == ("none", None, None)
    assert composed_statement(found)[0].startswith("There is no differential privacy in this adapter: r2")
    assert compose({}).unit == "none"


def test_facts_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        compose({"r1": DP_SGD, "r2": replace(DP_SGD, epsilon=0.5)})
    assert caught.value.code == "protocol.claims"
