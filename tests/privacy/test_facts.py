"""Facts about a run's privacy: what JSON holds, and epsilons that follow from the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.dp.canary_audit import Audit
from plasmid.dp.privacy_statement import PrivacyFacts
from support.federation.privacy_facts import DP_SGD, MASKED, shared


@pytest.mark.parametrize(
    ("unit", "record_clip", "update_clip", "sensitivity"),
    [("record", 1.5, 10.0, 1.5), ("patient", None, 10.0, 20.0), ("site", None, 10.0, 10.0)],
)
def test_the_sensitivity_is_the_units(
    unit: Any, record_clip: float | None, update_clip: float, sensitivity: float
) -> None:
    facts = replace(DP_SGD, unit=unit, record_clip=record_clip, update_clip=update_clip)
    assert facts.sensitivity == sensitivity


def test_facts_are_what_json_holds_and_their_epsilons_are_checked() -> None:
    audit = Audit(canaries=400, guesses=100, right=60, epsilon=8.0, delta=1e-5)
    for facts in (DP_SGD, shared(), MASKED, replace(DP_SGD, survivors=(4, 5), audit=audit, rehearsal=True)):
        values = json.loads(json.dumps(facts.as_json()))
        assert PrivacyFacts.from_json(values) == facts
    values = DP_SGD.as_json()
    assert values["accountant"] == "dp-accounting PLD"
    assert shared().as_json()["accountant"].startswith("Skellam RDP")
    values["participants"][1]["epsilon"] = 1.0
    with pytest.raises(
        ProtocolError, match=r"the epsilon beside the facts of b, 1\.0, does not follow"
    ) as caught:
        PrivacyFacts.from_json(values)
    assert caught.value.code == "protocol.claims"
    for changed in ({"steps": 6}, {"attempts": 11}):
        with pytest.raises(ProtocolError, match="does not follow"):
            PrivacyFacts.from_json({**DP_SGD.as_json(), **changed})
    with pytest.raises(ProtocolError, match="not complete"):
        PrivacyFacts.from_json({"protocol": "plasmid-sa/2"})
