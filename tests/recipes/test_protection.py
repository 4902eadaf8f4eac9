"""The two sections about protection: what contradicts itself is told, all at once, with its place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from plasmid.core.errors import UsageError
from plasmid.recipes.protection import (
    AuditPlan,
    Limits,
    Privacy,
    Protection,
    audit_limits,
    masked_limits,
    unit_limits,
)
from plasmid.recipes.query import MEAN_NORM, PingDocument, QueryDocument, mean_from_bounds, noised

DP = {"unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0}
SHARED = DP | {"mechanism": "dp-fedsgd"}
OUTPUT = {"unit": "site", "mechanism": "output", "epsilon": 8.0, "delta": 1e-5}


def places(privacy: Protection) -> list[str]:
    return [".".join(map(str, path)) for path, _ in unit_limits(privacy)]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"protect": "none"},
        DP,
        DP | {"protect": "none"},
        DP | {"unit": "patient"},
        SHARED,
        SHARED | {"rotation": "hadamard"},
        OUTPUT,
        OUTPUT | {"unit": "record"},
    ],
)
def test_what_is_sound(values: dict[str, Any]) -> None:
    assert places(Protection.model_validate(values)) == []


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"epsilon": 1.0}, ["privacy.epsilon"]),
        ({"mechanism": "dp-sgd", "delta": 0.1}, ["privacy.mechanism", "privacy.delta"]),
        ({"record_clip": 1.0}, ["privacy.record_clip"]),
        ({"unit": "record"}, ["privacy.mechanism", "privacy.epsilon", "privacy.delta"]),
        (DP | {"record_clip": None}, ["privacy.record_clip"]),
        (DP | {"epsilon": None, "delta": None}, ["privacy.epsilon", "privacy.delta"]),
        (OUTPUT | {"record_clip": 1.0}, ["privacy.record_clip"]),
        (DP | {"unit": "site"}, ["privacy.mechanism"]),
        (SHARED | {"unit": "site"}, ["privacy.mechanism"]),
        (SHARED | {"protect": "none"}, ["privacy.protect"]),
        (OUTPUT | {"protect": "none"}, ["privacy.protect"]),
        (DP | {"rotation": "hadamard"}, ["privacy.rotation"]),
        (SHARED | {"protect": "none", "record_clip": None}, ["privacy.record_clip", "privacy.protect"]),
    ],
)
def test_what_contradicts_itself(values: dict[str, Any], where: list[str]) -> None:
    assert places(Protection.model_validate(values)) == where


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -1.0),
        ("epsilon", float("inf")),
        ("epsilon", float("nan")),
        ("epsilon", 1001.0),
        ("epsilon", "8"),
        ("delta", 0.0),
        ("delta", 1.0),
        ("record_clip", 0.0),
        ("record_clip", float("inf")),
        ("max_records", 0),
        ("unit", "person"),
        ("mechanism", "laplace"),
        ("noise", 1.0),
    ],
)
def test_a_value_that_can_be_none(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Protection.model_validate(DP | {name: value})


@pytest.mark.parametrize(
    ("sites", "colluding", "protect", "where"),
    [
        (3, 1, "masked", []),
        (2, 1, "masked", ["federation.min_sites"]),
        (3, 2, "masked", ["federation.colluding_organisations"]),
        (64, 62, "masked", []),
        (64, 63, "masked", ["federation.colluding_organisations"]),
        (1, 0, "none", []),
    ],
)
def test_a_mask_must_hide_two_honest_sites(
    sites: int, colluding: int, protect: Any, where: list[str]
) -> None:
    limits = Limits(min_sites=sites, colluding_organisations=colluding)
    found = masked_limits(limits, Protection(protect=protect))
    assert [".".join(map(str, path)) for path, _ in found] == where


@pytest.mark.parametrize(
    ("values", "stated", "where"),
    [
        ({}, 4.0, []),
        ({}, None, ["privacy.audit.max_audited_epsilon"]),
        (DP, None, []),
        (DP, 4.0, ["privacy.audit.max_audited_epsilon"]),
        (OUTPUT, None, ["privacy.audit"]),
    ],
)
def test_an_audit_is_held_against_one_epsilon(
    values: dict[str, Any], stated: float | None, where: list[str]
) -> None:
    audit = AuditPlan(canaries=400, max_audited_epsilon=stated)
    privacy = Privacy.model_validate(values | {"audit": audit})
    assert [".".join(map(str, path)) for path, _ in audit_limits(privacy)] == where


# -- queries ---------------------------------------------------------------------------------------


def test_a_noised_question_protects_a_record_by_its_whole_length() -> None:
    privacy = noised(1.0, 1e-6)
    assert privacy is not None
    assert (privacy.unit, privacy.mechanism, privacy.protect) == ("record", "dp-fedsgd", "masked")
    assert privacy.record_clip == MEAN_NORM == pytest.approx(3**0.5)
    document = mean_from_bounds("age", (0.0, 120.0), privacy=privacy)
    assert document.federation.spare_attempts == 0  # a spare one would cost noise
    assert noised(None, None) is None


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0.0, 1e-6), (-1.0, 1e-6), (1.0, None), (None, 1e-6), (1.0, 0.0), (1.0, 1.0), (1001.0, 1e-6)],
)
def test_a_question_s_promise_that_is_none(epsilon: float | None, delta: float | None) -> None:
    with pytest.raises(UsageError) as caught:
        noised(epsilon, delta)
    assert caught.value.code == "usage.query_privacy"
    assert "--delta above 0" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (DP, "dp-sgd is for training"),
        (SHARED | {"unit": "patient"}, "it has no patients"),
        (SHARED | {"protect": "none"}, "only dp-sgd needs no mask"),
        ({"epsilon": 1.0}, "means nothing with unit: none"),
    ],
)
def test_what_no_query_can_be(changes: dict[str, Any], what: str) -> None:
    for kind, values in (
        (PingDocument, {"length": 3}),
        (QueryDocument, {"name": "mean", "column": "age", "bounds": (0.0, 1.0)}),
    ):
        with pytest.raises(ValidationError, match=what):
            kind.model_validate(values | {"privacy": changes})
