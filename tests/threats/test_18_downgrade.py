"""Row 18. Attack: downgrade: `protect: none`, old protocol, fewer sites, larger ε.

Must hold: the site's minimum wins; no fallback path exists.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from plasmid.gateway.sentences import SENTENCES
from plasmid.protocol import messages
from plasmid.protocol.messages import Manifest, sign
from plasmid.recipes.query import PingDocument
from plasmid.secagg import statements
from support.federation.attacks import FIVE, FOUR, count_document, forged, never, private, refusal
from support.federation.in_memory import Federation, document_of


def ping(**sections: Any) -> PingDocument:
    return PingDocument.model_validate({"length": 6, "rounds": 2, **sections})


def refused(federation: Federation, document: Any, code: str, *, site: str = "alpha") -> None:
    """Check that *site*, which allows the digest of *document*, refuses it before anything starts."""
    values, digest = document_of(document)
    home = federation.home(site)
    policy = json.loads(home.policy.read_text())
    home.policy.write_text(json.dumps(policy | {"allow": [*policy["allow"], digest]}))
    request = {"document": values, "digest": digest}
    for asked in (federation.asking(**request), federation.admitting(**request)):
        answer = federation.gateways[site].answer(asked)
        assert (answer.accepted, answer.code, answer.sentence) == (False, code, SENTENCES[code])
        assert answer.terms is None
    with refusal("run.unknown"):
        federation.gateways[site].run(asked.run)
    assert federation.gateways[site].ledger.entries() == []


# -- what the document says ------------------------------------------------------------------------


def test_protect_none_is_refused_unless_the_owner_wrote_it(tmp_path: Path) -> None:
    clear = ping(privacy={"protect": "none"})
    refused(Federation(tmp_path / "default"), clear, "policy.protection")
    asked_for = Federation(tmp_path / "asked for", require={"protect": "none"}, document=clear)
    assert asked_for.admit("alpha").accepted  # control


@pytest.mark.parametrize(
    ("require", "document", "code"),
    [
        ({"min_sites": 4}, ping(), "policy.min_sites"),
        ({"unit": "record"}, ping(), "policy.unit"),
        ({"unit": "patient"}, count_document(), "policy.unit"),
        ({"max_epsilon": 0.5}, count_document(), "policy.epsilon"),
        ({"max_delta": 1e-7}, count_document(), "policy.delta"),
        ({}, count_document(delta=1e-3), "policy.delta"),  # not below 1/N
        ({}, count_document(epsilon=8.1), "policy.budget"),
        ({}, count_document(delta=2e-5), "policy.budget"),
    ],
)
def test_the_stronger_minimum_wins(tmp_path: Path, require: dict[str, Any], document: Any, code: str) -> None:
    refused(private(tmp_path, require=require, document=ping(seed=7)), document, code)


def test_control_the_same_documents_run_where_the_owner_asks_for_less(tmp_path: Path) -> None:
    for index, document in enumerate((ping(), count_document(), count_document(epsilon=8.0))):
        federation = private(tmp_path / str(index), document=document)
        assert federation.admit("alpha").accepted


def test_without_a_budget_no_document_with_a_unit_runs(tmp_path: Path) -> None:
    federation = private(tmp_path, budgets={}, document=ping(seed=7))
    refused(federation, count_document(), "policy.no_budget")
    home = federation.home("beta")
    home.write_config(home.config().model_copy(update={"public_size": None}))
    refused(federation, count_document(), "data.no_public_size", site="beta")


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 8.0},
        {"delta": 9e-6},
        {"record_clip": 1.0},
        {"protect": "none"},
        {"unit": "none", "mechanism": None, "epsilon": None, "delta": None, "record_clip": None},
    ],
)
def test_a_weaker_document_under_the_digest_that_was_approved_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    federation = private(tmp_path)
    values = {**federation.values, "privacy": federation.values["privacy"] | change}
    answer = federation.gateways["alpha"].answer(federation.admitting(document=values))
    assert (answer.accepted, answer.code) == (False, "protocol.digest")
    # and under its own digest the policy does not name it, or the document contradicts itself
    _, digest = federation.values, messages.digest_json(values)
    answer = federation.gateways["alpha"].answer(federation.admitting(document=values, digest=digest))
    assert not answer.accepted


# -- fewer sites -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("require", "roster", "code"),
    [
        ({}, ["alpha", "beta"], "protocol.manifest"),
        ({}, ["alpha"], "protocol.manifest"),
        ({"min_organisations": 4}, ["alpha", "beta", "gamma"], "policy.min_organisations"),
    ],
)
def test_a_smaller_roster_is_refused(
    tmp_path: Path, require: dict[str, Any], roster: list[str], code: str
) -> None:
    federation = Federation(tmp_path, sites=FOUR, require=require)
    federation.admit_all()
    with refusal(code):
        federation.gateways["alpha"].begin_epoch(federation.epoch(roster=roster))
    assert not federation.home("alpha").runs.exists()
    assert federation.gateways["alpha"].begin_epoch(federation.epoch()) is not None


@pytest.mark.parametrize("require", [{"min_organisations": 5}, {"min_sites": 5}])
def test_a_smaller_sum_is_refused_by_the_site_that_wants_more(
    tmp_path: Path, require: dict[str, int]
) -> None:
    """The recipe is content with four of five; alpha's owner is not."""
    document = ping(federation={"min_sites": 4})
    federation = Federation(tmp_path, document=document, sites=FIVE)
    federation.set_up()
    manifest = federation.manifest()
    assert manifest.min_sites == 4
    answers = federation.answers(manifest)
    federation.allow("alpha", [federation.digest], **require)  # its owner has changed her mind
    four = [answers[site].contribution for site in FOUR]
    with refusal("policy.min_organisations" if "min_organisations" in require else "policy.min_sites"):
        federation.gateways["alpha"].relay(federation.relay("contribution", four))
    assert federation.gateways["beta"].relay(federation.relay("contribution", four)) is not None  # control


def test_a_manifest_that_invites_too_few_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FIVE)
    federation.set_up()
    for invited in (["alpha"], ["alpha", "beta"], ["alpha", "beta", "delta"]):
        with refusal("protocol.manifest"):  # theta = 4 of 5
            federation.gateways["alpha"].contribute(federation.manifest(invited=invited), never)


# -- weaker masks and less noise in a manifest -----------------------------------------------------


def weakened(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {"protocol": "none"},
        {"protocol": "none", "rho": None},
        {"rho": None},
        {"theta": manifest.theta - 1},
        {"min_sites": manifest.min_sites - 1},
        {"mechanism": "none"},
        {"mechanism": "dp-sgd"},  # whose vectors need no shared noise
        {"noise_variance": 0.0},
        {"noise_variance": manifest.noise_variance / 4},
        {"noise_variance": manifest.noise_variance * (1 - 1e-12)},
        {"bound": manifest.bound * 2},
        {"scale_log2": manifest.scale_log2 + 1},
        {"phase": "audit"},
    ]


def test_a_manifest_with_less_of_anything_is_refused(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    manifest = federation.manifest()
    gateway = federation.gateways["alpha"]
    for change in weakened(manifest):
        with refusal("protocol.manifest"):
            gateway.contribute(federation.manifest(**change), never)
    assert [entry["event"] for entry in gateway.ledger.entries()] == ["reserve"]
    answer = gateway.contribute(manifest, lambda _: np.zeros(3))  # control: as it was
    assert len(answer.body) > 0


@pytest.mark.parametrize(
    ("planned", "code"),
    [
        ({"noise_rate": 0.5}, "protocol.manifest"),  # noise for fewer records than are read
        ({"noise_rate": 0.0}, "protocol.manifest"),
        ({"sites": 64}, None),  # more sites: coarser steps, the same noise
    ],
)
def test_a_plan_with_less_noise_is_refused(tmp_path: Path, planned: dict[str, Any], code: str | None) -> None:
    federation = private(tmp_path)
    federation.admit_all()
    request = federation.epoch(planned=federation.planned.model_copy(update=planned))
    if code is None:
        assert federation.gateways["alpha"].begin_epoch(request) is not None
    else:
        with refusal(code):
            federation.gateways["alpha"].begin_epoch(request)


def test_a_later_epoch_cannot_plan_less_than_the_first(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    for planned in ({"sites": 5}, {"c": 2}, {"noise_rate": 0.999}):
        request = federation.epoch(epoch=2, planned=federation.planned.model_copy(update=planned))
        with refusal("protocol.manifest" if "noise_rate" in planned else "protocol.epoch_used"):
            federation.gateways["alpha"].begin_epoch(request)


# -- no fallback -----------------------------------------------------------------------------------


def test_the_old_protocol_is_no_message(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.admit_all()
    adverts = federation.adverts()
    old = forged(adverts[1], federation.identities["beta"], protocol="plasmid-sa/1")
    with refusal("protocol.malformed"):
        federation.gateways["alpha"].relay(federation.relay("advert", [adverts[0], old, adverts[2]]))
    federation.seal(federation.ready(federation.recoveries(federation.bundles(adverts))))
    manifest = sign(federation.coordinator, federation.manifest())
    assert federation.gateways["alpha"].open(manifest) == federation.manifest()
    for protocol in ("plasmid-sa/0", "plasmid-sa/1", "plasmid-sa/3", "", "NONE", None):
        with refusal("protocol.malformed"):
            federation.gateways["alpha"].open(forged(manifest, federation.coordinator, protocol=protocol))


def test_every_statement_names_the_one_protocol() -> None:
    assert statements.PROTOCOL == "plasmid-sa/2"
    named = {
        name: get_args(model.model_fields["protocol"].annotation)
        for name, model in vars(statements).items()
        if isinstance(model, type) and "protocol" in getattr(model, "model_fields", {})
    }
    assert set(named) == {"_OfEpoch", "Advert", "Bundle", "Recovery", "Ready", "Consent", "Shares"}
    assert set(named.values()) == {("plasmid-sa/2",)}
    assert get_args(Manifest.model_fields["protocol"].annotation) == ("plasmid-sa/2", "none")


def test_an_epoch_that_could_not_begin_leaves_no_way_around_the_masks(tmp_path: Path) -> None:
    """More slots than an epoch may have: the run is admitted and planned, and holds no masks."""
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=300))
    federation.admit_all()
    for gateway in federation.gateways.values():
        with refusal("protocol.slots"):
            gateway.begin_epoch(federation.epoch(slots=300))
        for change in ({}, {"rho": None}, {"protocol": "none"}, {"rho": "0" * 64}):
            with refusal("protocol.manifest"):
                gateway.contribute(federation.manifest(**change), never)
    federation.key_epoch(epoch=2, slots=64)  # and the run can go on
    manifest = federation.manifest()
    federation.open_sum(list(federation.answers(manifest).values()), manifest)


def test_a_site_says_what_it_would_accept_and_changes_nothing(tmp_path: Path) -> None:
    """The policy refuses with a rule and a value, in its own log; the document stays as it was."""
    federation = private(tmp_path, require={"max_epsilon": 0.5}, document=ping(seed=7))
    document = count_document()
    before = document.model_dump_json()
    refused(federation, document, "policy.epsilon")
    assert document.model_dump_json() == before
    (line,) = [line for line in federation.log("alpha") if line["action"] == "refused"][:1]
    assert line["reason"] == "max_epsilon: the document says epsilon: 1.0, the policy accepts up to 0.5."
