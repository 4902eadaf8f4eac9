"""The doctor finds what is wrong with a site, says what to do, and changes nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from plasmid.cli.verbs.doctor import app
from plasmid.core.clock import now
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.keys.keystore import CHOSEN, Cost, EncryptedFile
from plasmid.gateway.members.peers import Peers, read_peers, write_peers
from plasmid.gateway.pause import pause
from plasmid.isolation import choice
from plasmid.isolation.levels import LEVELS
from plasmid.owner.doctor import CHECKS, folder, outside
from plasmid.owner.doctor.report import Check, Line, State, Subject, examine, ok
from plasmid.protocol.identity import Identity
from support.federation.live_link import LiveLink
from support.federation.owner_site import PASSPHRASE, RUN, make_site, make_used_site
from support.servers.proxies import CompanyCa, Proxy


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_used_site(tmp_path / "site")[0]


def lines(check: Check, subject: Subject) -> list[Line]:
    return list(examine(subject, [("it", check)]))


def states(check: Check, subject: Subject) -> list[str]:
    return [line.state.value for line in lines(check, subject)]


def told(check: Check, subject: Subject, state: State) -> str:
    """Return what the lines of *state* say; each must say what to do."""
    found = [line for line in lines(check, subject) if line.state is state]
    assert all(line.do for line in found) or state is State.ok
    return "\n".join(f"{line.what} {line.do}" for line in found)


# -- the folder ------------------------------------------------------------------------------------


def test_a_site_that_is_in_order_is_told_so(home: SiteHome) -> None:
    for check in (
        folder.rights,
        folder.state,
        folder.policy,
        folder.peers,
        folder.ledger,
        folder.clock,
        folder.disk,
    ):
        assert set(states(check, Subject(home))) == {"OK"}, check.__name__


def test_it_changes_nothing(home: SiteHome) -> None:
    def seen() -> dict[Path, bytes]:
        files = [path for path in home.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path: path.read_bytes() for path in files}

    before = seen()
    assert len(list(examine(Subject(home, offline=True), CHECKS))) >= len(CHECKS)
    assert seen() == before


@pytest.mark.parametrize(
    ("cost", "state"), [(Cost(n=2), State.fail), (Cost(n=2**10), State.warn), (CHOSEN, State.ok)]
)
def test_keys_must_be_worth_their_passphrase(home: SiteHome, cost: Cost, state: State) -> None:
    home.keys.unlink()
    EncryptedFile.create(home.keys, "hospital-a", lambda: PASSPHRASE, cost=cost)
    assert f"scrypt n = {cost.n}" in told(folder.keys, Subject(home), state)


def test_keys_in_the_clear_are_found(home: SiteHome) -> None:
    (home.folder / "identity.key").write_bytes(Identity.generate("x").to_pem())
    (home.folder / "tls.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    found = told(folder.keys, Subject(home), State.fail)
    assert "identity.key holds a key in the clear" in found
    assert "tls.pem holds no encrypted key" in found


def test_opened_keys_must_be_the_site_s(home: SiteHome) -> None:
    keys = EncryptedFile(home.keys, lambda: PASSPHRASE)
    assert "the passphrase opens them" in told(folder.keys, Subject(home, keys=keys), State.ok)
    wrong = EncryptedFile(home.keys, lambda: PASSPHRASE + "x")
    assert "do not open" in told(folder.keys, Subject(home, keys=wrong), State.fail)
    home.write_config(SiteConfig(**{**home.config().model_dump(), "name": "hospital-z"}))
    assert "not those of this site" in told(folder.keys, Subject(home, keys=keys), State.fail)


@pytest.mark.parametrize(
    ("name", "mode", "state", "what"),
    [
        (".", 0o755, State.fail, "open to others"),
        ("policy.yaml", 0o666, State.fail, "may be changed by others"),
        ("keys.json", 0o644, State.fail, "holds keys, and others may read it"),
        ("policy.yaml", 0o644, State.ok, "its owner's alone"),
    ],
)
def test_rights_that_are_too_wide_are_found(
    home: SiteHome, name: str, mode: int, state: State, what: str
) -> None:
    (home.folder / name).chmod(mode)
    found = told(folder.rights, Subject(home), state)
    assert what in found
    assert (state is State.ok) or "chmod" in found


def test_a_link_out_of_the_folder_is_found(home: SiteHome, tmp_path: Path) -> None:
    (home.folder / "data" / "table.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert "data/table.csv is a link" in told(folder.rights, Subject(home), State.warn)


def test_a_policy_is_told_apart_by_what_it_allows(home: SiteHome) -> None:
    assert "1 digests may run without" in told(folder.policy, Subject(home), State.ok)
    home.policy.write_text("{}")
    assert "lets nothing run" in told(folder.policy, Subject(home), State.warn)
    approvers = {"approvers": {"people": ["ada"], "quorum": 1}}
    home.policy.write_text(json.dumps({"allow": [approvers], "require": {"protect": "none"}}))
    assert "without a record here: ada" in told(folder.policy, Subject(home), State.fail)
    warned = told(folder.policy, Subject(home), State.warn)
    assert "in the clear" in warned
    assert "no privacy budget" in warned
    home.policy.write_text("allow: [")
    assert "policy.yaml" in told(folder.policy, Subject(home), State.fail)
    home.policy.unlink()
    assert "there is no policy" in told(folder.policy, Subject(home), State.fail)


def test_too_few_organisations_and_revoked_keys_are_found(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(folder.peers, Subject(home)) == ["OK"]
    known = read_peers(home.peers)
    monkeypatch.setattr(
        folder, "Revoked", lambda path: SimpleNamespace(has=lambda key: key == known.sites[0].key)
    )
    assert "hospital-b was revoked" in told(folder.peers, Subject(home), State.fail)
    write_peers(home.peers, Peers(coordinator=known.coordinator, sites=known.sites[1:]))
    assert "2 organisations are confirmed here, a masked sum needs 3" in told(
        folder.peers, Subject(home), State.warn
    )


def test_a_damaged_a_cut_and_an_emptied_ledger_are_found(home: SiteHome) -> None:
    from plasmid.gateway.ledger import Ledger
    from plasmid.log.audit_log import AuditLog

    sound = home.ledger.read_bytes()
    ledger = Ledger(home.ledger, AuditLog(home.audit))
    ledger.charge_attempt(RUN, (1, 0))
    assert states(folder.ledger, Subject(home)) == ["OK"]
    home.ledger.write_bytes(sound)
    assert "a crash came between the two" in told(folder.ledger, Subject(home), State.warn)
    Ledger(home.ledger, AuditLog(home.audit)).charge_attempt(RUN, (1, 0))
    Ledger(home.ledger, AuditLog(home.audit)).charge_attempt(RUN, (1, 1))
    home.ledger.write_bytes(sound)
    assert "was rolled back" in told(folder.ledger, Subject(home), State.fail)
    home.ledger.write_bytes(sound.replace(b'"epsilon":3', b'"epsilon":1'))
    assert "is damaged" in told(folder.ledger, Subject(home), State.fail)


def test_a_budget_that_is_spent_is_told(home: SiteHome) -> None:
    policy = json.loads(home.policy.read_text())
    policy["budgets"]["default"]["epsilon"] = 3.0
    home.policy.write_text(json.dumps(policy))
    assert "nothing is left of the budget of default" in told(folder.ledger, Subject(home), State.warn)


def test_the_log_is_hashed_and_needs_cosigners(home: SiteHome) -> None:
    assert "5 entries are those" in told(folder.audit, Subject(home), State.ok)
    assert "no other site has cosigned" in told(folder.audit, Subject(home), State.warn)
    log = home.audit / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"round":2', b'"round":9'))
    assert "is damaged" in told(folder.audit, Subject(home), State.fail)


def test_an_empty_log_is_told(tmp_path: Path) -> None:
    home, _ = make_site(tmp_path / "site")
    assert "no signed checkpoint yet" in told(folder.audit, Subject(home), State.warn)
    assert "the log is empty" in told(folder.clock, Subject(home), State.ok)


def test_a_clock_behind_the_log_is_found(home: SiteHome) -> None:
    late = Subject(home, clock=lambda: now() - timedelta(hours=2))
    assert "behind the newest entry of the log" in told(folder.clock, late, State.fail)


@pytest.mark.parametrize(("free", "state"), [(5e9, State.ok), (5e8, State.warn), (5e7, State.fail)])
def test_disk_space_is_looked_at(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, free: float, state: State
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert [line.state for line in lines(folder.disk, Subject(home))] == [state]


def test_a_pause_is_told(home: SiteHome) -> None:
    pause(home, by="Ada", reason="an incident")
    assert "paused by Ada" in told(folder.state, Subject(home), State.warn)


def test_isolation_is_tried_and_compared_with_the_policy(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = choice.choose("best").level
    assert f"workers run in: {best}" in told(folder.isolation, Subject(home), State.ok)
    home.write_config(SiteConfig(**{**home.config().model_dump(), "isolation": "none"}))
    assert "may read what this user may read" in told(folder.isolation, Subject(home), State.warn)
    home.policy.write_text(json.dumps({"require": {"isolation": best}}))
    assert f"asks for {best} or stronger" in told(folder.isolation, Subject(home), State.fail)
    weaker = LEVELS[-2]
    found = [level for level in choice.every() if level.level != weaker]
    monkeypatch.setattr(choice, "every", lambda: found)
    home.write_config(SiteConfig(**{**home.config().model_dump(), "isolation": weaker}))
    assert "cannot be had here" in told(folder.isolation, Subject(home), State.fail)


# -- the way out -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with LiveLink(tmp_path_factory.mktemp("link")) as link:
        credential, keys = link.member("hospital-a")[:2]
        site = SiteHome(credential.folder)
        site.write_config(SiteConfig(name="hospital-a", organisation="hospital-a-org"))
        yield SimpleNamespace(link=link, home=site, keys=keys)


def test_a_coordinator_that_answers_is_in_order(enrolled: Any) -> None:
    found = told(outside.way_out, Subject(enrolled.home), State.ok)
    assert "with the pinned key" in found
    assert "TLS ends at the coordinator" in found
    assert re.search(r"differ by \d s\.", found)
    assert set(states(outside.certificates, Subject(enrolled.home))) == {"OK"}


@pytest.mark.parametrize(("by", "state"), [(90, State.warn), (3600, State.fail), (-3600, State.fail)])
def test_a_clock_that_differs_from_the_coordinator_s_is_found(enrolled: Any, by: int, state: State) -> None:
    ahead = Subject(enrolled.home, clock=lambda: now() + timedelta(seconds=by))
    assert "Set the clock right" in told(outside.way_out, ahead, state)


def test_certificates_that_end_are_found(enrolled: Any) -> None:
    soon = Subject(enrolled.home, clock=lambda: now() + timedelta(days=300))
    assert "renews it by itself" in told(outside.certificates, soon, State.warn)
    late = Subject(enrolled.home, clock=lambda: now() + timedelta(days=365 * 30))
    assert "plasmid site rotate" in told(outside.certificates, late, State.fail)


def test_another_coordinator_at_the_address_is_found(enrolled: Any, tmp_path: Path) -> None:
    copy = SiteHome(tmp_path / "copy")
    shutil.copytree(enrolled.home.folder, copy.folder)
    known = json.loads((copy.folder / "coordinator.json").read_bytes())
    known["key"] = Identity.generate("other").public
    (copy.folder / "coordinator.json").write_text(json.dumps(known))
    assert "another coordinator answers" in told(outside.way_out, Subject(copy), State.fail)


def test_what_cannot_be_reached_is_said_with_its_proxy(enrolled: Any, tmp_path: Path) -> None:
    site = through(enrolled, tmp_path, proxy="http://127.0.0.1:9")  # nobody listens at the discard port
    assert "through http://127.0.0.1:9" in told(outside.way_out, Subject(site), State.fail)


def through(enrolled: Any, folder: Path, **network: Any) -> SiteHome:
    """Return a copy of the enrolled site that gets out in another way."""
    copy = SiteHome(folder / "copy")
    shutil.copytree(enrolled.home.folder, copy.folder)
    values = {**enrolled.home.config().model_dump(), "network": network}
    copy.write_config(SiteConfig.model_validate(values))
    return copy


def test_a_tunnel_is_end_to_end(enrolled: Any, tmp_path: Path) -> None:
    with Proxy() as proxy:
        site = through(enrolled, tmp_path, proxy=proxy.url)
        found = told(outside.way_out, Subject(site), State.ok)
    assert f"answers through {proxy.url}" in found
    assert "TLS ends at the coordinator" in found


def test_a_proxy_that_ends_tls_is_told(enrolled: Any, tmp_path: Path) -> None:
    company = CompanyCa(tmp_path)
    with Proxy(company=company, coordinator_ca=enrolled.link.home.folder / "ca.pem") as proxy:
        site = through(enrolled, tmp_path, proxy=proxy.url, ca=str(company.ca))
        subject = Subject(site, keys=enrolled.keys)
        assert "TLS ends at a proxy in between" in told(outside.way_out, subject, State.warn)
        assert "lets this site in" in told(outside.member, subject, State.ok)


def test_with_its_keys_the_site_is_let_in(enrolled: Any) -> None:
    assert "lets this site in" in told(outside.member, Subject(enrolled.home, keys=enrolled.keys), State.ok)
    assert "its keys are closed" in told(outside.member, Subject(enrolled.home), State.warn)


def test_offline_leaves_the_coordinator_alone(home: SiteHome) -> None:
    assert "left alone" in told(outside.way_out, Subject(home, offline=True), State.warn)


def test_a_site_that_is_not_enrolled_is_told(home: SiteHome) -> None:
    assert "is not enrolled" in told(outside.way_out, Subject(home), State.fail)
    assert "plasmid site join" in told(outside.certificates, Subject(home), State.fail)


def test_packages_of_other_versions_are_found(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FAIL" not in states(outside.versions, Subject(home))
    version = outside.version
    monkeypatch.setattr(outside, "version", lambda name: "4.0" if name == "transformers" else version(name))
    assert "transformers 4.0 is not" in told(outside.versions, Subject(home), State.fail)


# -- the verb --------------------------------------------------------------------------------------


def test_a_check_that_breaks_is_a_failure_without_its_text(home: SiteHome) -> None:
    def breaks(subject: Subject) -> Any:
        raise ValueError("a cell: CANARY-4711")

    (line,) = lines(breaks, Subject(home))
    assert line.state is State.fail
    assert "ValueError at test_doctor.py" in line.what
    assert "CANARY" not in line.what


Change = Callable[[SiteHome], None]


def test_the_verb_ends_with_one_for_a_failure_and_zero_without(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plasmid.owner import doctor

    monkeypatch.setattr(doctor, "CHECKS", (("state", folder.state), ("policy", folder.policy)))
    said = CliRunner().invoke(app, ["--home", str(home.folder), "--format", "json"])
    answer = json.loads(said.stdout.splitlines()[-1])
    assert (said.exit_code, answer["status"]) == (0, "ok")
    assert answer["data"]["checks"][0] == {
        "check": "state", "state": "OK", "what": "the site is not paused.", "do": ""
    }  # fmt: skip
    home.policy.unlink()
    said = CliRunner().invoke(app, ["--home", str(home.folder), "--format", "json"])
    answer = json.loads(said.stdout.splitlines()[-1])
    assert (said.exit_code, answer["error"]["code"]) == (1, "site.doctor")
    assert "policy" in answer["error"]["message"]
    text = CliRunner().invoke(app, ["--home", str(home.folder)]).stdout
    assert "FAIL  policy" in text
    assert "OK    state" in text


def test_the_verb_opens_the_keys_where_a_passphrase_is_named(
    home: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plasmid.owner import doctor

    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE + "\n")
    monkeypatch.setattr(doctor, "CHECKS", (("keys", folder.keys),))
    said = CliRunner().invoke(app, ["--home", str(home.folder), "--passphrase-file", str(secret)])
    assert "the passphrase opens them" in said.stdout
    assert PASSPHRASE not in said.stdout


def test_every_check_is_listed_once() -> None:
    names = [name for name, _ in CHECKS]
    assert len(set(names)) == len(names)
    assert ok("x")[0] is State.ok
