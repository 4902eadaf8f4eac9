"""Row 45. Attack: a rolled-back ledger that has regrown; a peer that lies about a head; restored marks.

Must hold: what a site has signed itself is looked up in its own ledger, however long that has become; what it
did not sign counts for nothing, and the liar is named; a consent that a restored folder has lost is taken on
again. *claim*: peers that never took part with the site before, or that collude, remind it of nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from plasmid.core.errors import StorageError
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members.heads import Heads
from plasmid.gateway.policy.file import read_policy
from plasmid.protocol.messages import Signed, sign, wire
from support.federation.attacks import FOUR, count_document, forged, never, private, refusal
from support.federation.in_memory import Federation

VECTOR = np.array([0.5, 0.25, 1.0])
OTHERS = ("beta", "epsilon", "kappa", "zeta")
"""The sites of another project: beta alone is among FOUR, too."""
ALL = tuple(sorted({*FOUR, *OTHERS}))


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Seven sites with a budget of 8 each, and runs of epsilon 2."""
    return private(
        tmp_path, document=count_document(epsilon=2.0), sites=ALL, tables=dict.fromkeys(ALL, "age\n30\n")
    )


def bundles(federation: Federation, run: str, sites: Sequence[str]) -> dict[str, list[Signed]]:
    """Begin *run*; return the bundles by receiver."""
    federation.new_run(run)
    for site in sites:
        assert federation.admit(site).accepted
    return federation.bundles(federation.adverts(epoch=1, roster=list(sites)))


def a_run(federation: Federation, run: str, sites: Sequence[str]) -> None:
    """Take *run* from admission to its sum."""
    federation.new_run(run)
    for site in sites:
        assert federation.admit(site).accepted
    federation.key_epoch(epoch=1, roster=list(sites))
    manifest = federation.manifest(invited=list(sites))
    answers = federation.answers(manifest, dict.fromkeys(sites, VECTOR))
    federation.open_sum(list(answers.values()), manifest)
    for site in sites:
        federation.gateways[site].forget(federation.run)


def roll_back_and_regrow(federation: Federation) -> None:
    """Beta spends 6 of its 8 with FOUR, gets its ledger of before back, and spends 6 with the others."""
    for number in range(3):
        a_run(federation, f"first-{number}", FOUR)
    federation.home("beta").ledger.unlink()
    for number in range(3):
        a_run(federation, f"other-{number}", OTHERS)
    sums = federation.gateways["beta"].ledger.summary()["default"]
    assert (float(sums.spent_epsilon), float(sums.reserved_epsilon)) == (6.0, 0.0)  # it was 12
    assert federation.gateways["beta"].ledger.charged()[0] == 9  # as many as FOUR have seen


def test_control_without_its_own_word_it_spends_14_of_8(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_back_and_regrow(federation)
    monkeypatch.setattr(Ledger, "check_seen", lambda *_: None)
    a_run(federation, "last", FOUR)
    assert float(federation.gateways["beta"].ledger.summary()["default"].spent_epsilon) == 8.0


def test_a_rolled_back_ledger_that_has_regrown_is_refused(federation: Federation) -> None:
    roll_back_and_regrow(federation)
    inbox = bundles(federation, "last", FOUR)
    charged = federation.gateways["beta"].ledger.charged()
    with pytest.raises(StorageError, match="ends with entry 10 and does not contain the charge of entry 9"):
        federation.gateways["beta"].relay(federation.relay("bundle", inbox["beta"]))
    with refusal("protocol.manifest"):
        federation.gateways["beta"].contribute(federation.manifest(invited=list(FOUR)), never)
    assert federation.gateways["beta"].ledger.charged() == charged
    for site in ("alpha", "delta", "gamma"):  # nothing is wrong with theirs
        assert federation.gateways[site].relay(federation.relay("bundle", inbox[site])) is not None


def test_once_told_it_runs_with_nobody_until_it_is_carried_forward(federation: Federation) -> None:
    roll_back_and_regrow(federation)
    inbox = bundles(federation, "last", FOUR)
    with refusal("storage.ledger_rolled_back"):
        federation.gateways["beta"].relay(federation.relay("bundle", inbox["beta"]))
    federation.gateways["beta"].forget(federation.run)
    federation.restart("beta")
    federation.new_run("with those who know nothing")
    assert federation.admit("beta").accepted
    with refusal("storage.ledger_rolled_back"):
        federation.gateways["beta"].begin_epoch(federation.epoch(roster=list(OTHERS)))
    # the way out helps, and forgets nothing: only a larger budget gives room
    federation.gateways["beta"].ledger.carry_forward(read_policy(federation.home("beta").policy).budgets)
    federation.new_run("no budget")
    assert federation.admit("beta").code == "policy.budget"
    federation.budgets = {"default": {"unit": "record", "epsilon": 100.0, "delta": 1e-4}}
    for site in FOUR:
        federation.allow(site, [federation.digest])
    a_run(federation, "larger budget", FOUR)
    a_run(federation, "and again", FOUR)


# -- a peer that lies ------------------------------------------------------------------------------


def large(federation: Federation, statement: Signed, signer: str) -> str:
    """Return beta's contribution with a large counter, signed by somebody else under beta's name."""
    lie = forged(statement, federation.identities[signer], ledger_counter=2**53 - 1)
    return wire(lie).decode()


@pytest.mark.parametrize("lie", ["another's signature", "another's words", "no statement", "an advert"])
def test_a_peer_cannot_stop_a_site_or_burn_its_budget(tmp_path: Path, lie: str) -> None:
    federation = private(tmp_path)
    a_run(federation, "run-1", FOUR)
    told = Heads(federation.home("alpha").heads)
    beta, alpha = (federation.identities[site] for site in ("beta", "alpha"))
    true = told.newest("beta", beta.public)
    assert true
    inbox = bundles(federation, "run-2", FOUR)
    (bundle,) = (signed for signed in inbox["beta"] if signed.signer == "alpha")
    assert bundle.payload["heard"][0] == true
    own = Heads(federation.home("beta").heads).newest("alpha", alpha.public)
    text = {
        "another's signature": large(federation, Signed.model_validate_json(true), "alpha"),
        "another's words": own,
        "no statement": "2" * 2048,
        "an advert": wire(sign(beta, federation.gateways["beta"].run(federation.run).epoch.advert)).decode()[
            :2048
        ],
    }[lie]
    inbox["beta"] = [
        forged(signed, alpha, heard=[text]) if signed is bundle else signed for signed in inbox["beta"]
    ]
    blobs = federation.recoveries(inbox)
    federation.seal(federation.ready(blobs))
    assert federation.answers(federation.manifest(), {"beta": VECTOR})  # it runs on
    assert float(federation.gateways["beta"].ledger.summary()["default"].spent_epsilon) == 2.0
    (line,) = (entry for entry in federation.log("beta") if entry["action"] == "reminder.false")
    assert (line["actor"], line["run"], line["result"]) == ("site:alpha", federation.run, "noted")


def test_an_older_word_of_its_own_is_no_matter(tmp_path: Path) -> None:
    federation = private(tmp_path)
    a_run(federation, "run-1", FOUR)
    old = (federation.home("alpha").heads).read_bytes()
    a_run(federation, "run-2", FOUR)
    federation.home("alpha").heads.write_bytes(old)
    a_run(federation, "run-3", FOUR)
    assert not [entry for entry in federation.log("beta") if entry["action"] == "reminder.false"]


# -- marks that a restored folder has lost -----------------------------------------------------------


@pytest.mark.parametrize("unit", [True, False])
def test_a_restored_site_takes_its_consent_on_again(tmp_path: Path, *, unit: bool) -> None:
    federation = private(tmp_path) if unit else Federation(tmp_path, sites=FOUR)
    federation.set_up()
    snapshot = (federation.home("beta").runs / f"{federation.run}.json").read_bytes()
    vectors = dict.fromkeys(FOUR, VECTOR if unit else np.zeros(6, np.float32))
    manifest = federation.manifest()
    federation.open_sum(list(federation.answers(manifest, vectors).values()), manifest)

    (federation.home("beta").runs / f"{federation.run}.json").write_bytes(snapshot)
    gateway = federation.restart("beta")
    assert federation.admit("beta").accepted
    federation.key_epoch(epoch=2)
    (line,) = (entry for entry in federation.log("beta") if entry["action"] == "consent.restored")
    assert (line["round"], line["object"], line["run"]) == (1, manifest.digest(), federation.run)
    if unit:  # charged again
        assert gateway.contribute(federation.manifest(slot=1), lambda _: VECTOR).body
    else:
        with refusal("protocol.consented"):
            gateway.contribute(federation.manifest(slot=1), never)
        assert gateway.contribute(federation.manifest(2), lambda _: vectors["beta"]).body


def test_a_whole_folder_that_was_restored_takes_its_consent_on_again(tmp_path: Path) -> None:
    """The log knows as much as the marks: nothing at home tells that there was a round."""
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    folder = federation.home("beta").folder
    shutil.copytree(folder, tmp_path / "snapshot")
    manifest = federation.manifest()
    federation.open_sum(list(federation.answers(manifest).values()), manifest)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "snapshot", folder)
    gateway = federation.restart("beta")
    assert federation.admit("beta").accepted
    federation.key_epoch(epoch=2)
    with refusal("protocol.consented"):
        gateway.contribute(federation.manifest(slot=1), never)
