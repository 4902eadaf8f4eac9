"""A deployed federation where one site's people approve: a run waits for two of three, and is held to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from plasmid.client.api import Coordinator, Run
from plasmid.core.errors import PlasmidError
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import DRAWN, draw_passphrase
from plasmid.gateway.keys.passphrase import from_file
from plasmid.gateway.notify import TEXT
from plasmid.log.audit_log import AuditLog
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.query import PingDocument, mean_from_bounds
from support.federation.deployed import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITES = ("alpha", "beta", "gamma")
PEOPLE = ("ann", "bob", "cem")
AGES = {"alpha": (30, 90) * 10, "beta": (60, 90) * 10, "gamma": (30, 60) * 10}
LONG = 5000
"""Rounds of a run that is meant to be under way when something happens."""
DEADLINE_S = 120.0


def mean(high: float) -> dict[str, Any]:
    """Return the question for the mean age, with a bound of its own."""
    return mean_from_bounds("age", (0.0, high)).model_dump(mode="json")


def ping(rounds: int) -> dict[str, Any]:
    return PingDocument(length=10, rounds=rounds).model_dump(mode="json")


def digest(document: dict[str, Any]) -> str:
    return recipe_digest(document, document["computation"])


DOCUMENTS = [mean(120.0), mean(110.0), mean(100.0), ping(2), ping(LONG)]


class Hook:
    """A local web server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Keep the test's output clean."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/a-secret-path"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Office:
    """alpha's people at their desks."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.folder = deployment.home("alpha") / "site"

    def secret(self, name: str) -> str:
        return str(self.deployment.home("alpha") / f"{name}.passphrase")

    def record(self) -> None:
        """Have each person make a key under a passphrase of his own."""
        home = SiteHome(self.folder)
        approvals = Approvals(home, AuditLog(home.audit))
        for name in PEOPLE:
            path = Path(self.secret(name))
            draw_passphrase(path)
            who = {"full_name": f"{name.capitalize()} Example", "role": "privacy officer"}
            approvals.add_person(name, **who, passphrase=from_file(path), cost=DRAWN)

    def cli(self, *arguments: str, check: bool = True) -> dict[str, Any]:
        return self.deployment.cli("alpha", "approvals", *arguments, check=check)

    def sign(self, document: dict[str, Any], name: str, meaning: str = "approved") -> str:
        """Have *name* sign; return the approval's digest."""
        how = ["--as", name, "--meaning", meaning, "--reason", "read line by line", "--yes"]
        made = self.cli("sign", digest(document), *how, "--passphrase-file", self.secret(name))
        return str(made["data"]["approval"]["digest"])

    def approve(self, document: dict[str, Any]) -> str:
        """Have two of three sign what is needed; return the second approval's digest."""
        self.sign(document, "ann", "dp-reviewed")
        return self.sign(document, "bob")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, hook: Hook) -> Iterator[Deployment]:
    root: Path = tmp_path_factory.mktemp("approvals")
    tables: dict[str, Path | None] = {}
    for site, ages in AGES.items():
        path = root / f"{site}.csv"
        path.write_text("age\n" + "".join(f"{age}\n" for age in ages))
        tables[site] = path
    with Deployment(root, tables) as made:
        made.allow([digest(document) for document in DOCUMENTS])
        office = Office(made)
        office.record()
        quorum = {"dp-reviewed": 1, "approved": 1}
        policy = {
            "allow": [{"approvers": {"people": list(PEOPLE), "quorum": quorum}, "projects": ["trial"]}],
            "require": {"max_rounds": LONG},
            "notify": {"webhook": hook.url},
        }
        (office.folder / "policy.yaml").write_text(json.dumps(policy))
        made.start_sites()
        made.wait_online()
        yield made


@pytest.fixture
def office(deployment: Deployment) -> Office:
    return Office(deployment)


@pytest.fixture
def researcher(deployment: Deployment) -> Iterator[Coordinator]:
    client = deployment.client()
    yield client
    client.close()


def until(run: Run, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(shown := run.show()):
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    return shown


def waits(have: int) -> Callable[[dict[str, Any]], bool]:
    """Return whether a run waits with *have* of two approvals."""
    return lambda shown: (
        (shown["state"], shown["approvals"])
        == (
            "AWAITING_APPROVAL",
            {"have": have, "need": 2},
        )
    )


def test_a_run_waits_for_two_of_three_and_succeeds(
    deployment: Deployment, office: Office, researcher: Coordinator, hook: Hook
) -> None:
    document = mean(120.0)
    plan = researcher.plan(document)
    assert plan["sites"]["alpha"]["code"] == "policy.awaiting_approval"
    assert hook.told == []  # a question tells nobody
    run = researcher.start(document)
    until(run, waits(0))
    how = ["--coordinator", deployment.url]
    shown = deployment.text("researcher", "runs", "show", run.id, *how)
    assert "AWAITING_APPROVAL (0 of 2)" in shown
    assert "alpha: waits for approvals (0 of 2)" in shown
    assert "beta: accepts" in shown
    wait_for(lambda: hook.told, "the webhook", None)
    assert hook.told == [{"text": TEXT}]
    seen = deployment.text("alpha", "approvals", "show", digest(document))
    for line in (
        "computation: mean: the count, mean and variance of one column, over all sites",
        "column: age, within 0 to 120",
        "number: 20 rows",
        "privacy budget: nothing: it promises no differential privacy",
        "results go to: researcher (researcher-org)",
        "This is the first version of it here.",
        "0 of 2 approvals (still needed: 1 x dp-reviewed, 1 x approved)",
    ):
        assert line in seen
    office.sign(document, "ann", "dp-reviewed")
    until(run, waits(1))
    assert "AWAITING_APPROVAL (1 of 2)" in deployment.text("researcher", "runs", "ls", *how)
    office.sign(document, "cem", "dp-reviewed")  # one more of that meaning does not stand in for the other
    assert office.cli("show", digest(document))["data"]["approvals"] == {"have": 1, "need": 2}
    office.sign(document, "bob")
    run.wait()
    answer = run.result()["answer"]
    assert (answer["count"], answer["sites"]) == (60, 3)
    assert answer["mean"] == pytest.approx(sum(map(sum, AGES.values())) / 60, abs=1e-3)
    assert run.show()["approvals"] == {"have": 2, "need": 2}
    assert office.cli("ls")["data"]["waiting"] == []
    assert len(hook.told) == 1
    told = [entry["channel"] for entry in deployment.log("alpha", action="approval.told", result="ok")]
    assert told == ["webhook"]


def test_what_was_approved_starts_at_once_the_next_time(
    deployment: Deployment, office: Office, researcher: Coordinator
) -> None:
    run = researcher.start(mean(120.0)).wait()
    assert not [line for line in run.log() if "AWAITING_APPROVAL" in line["text"]]


def test_another_version_is_shown_against_the_approved_one_and_survives_a_restart(
    deployment: Deployment, office: Office, researcher: Coordinator
) -> None:
    document = mean(110.0)
    run = researcher.start(document)
    until(run, waits(0))
    found = office.cli("show", digest(document))["data"]
    assert found["previous"]["person"]["name"] == "bob"
    assert found["changed"][0] == "column: age, within 0 to 110 (last approved: age, within 0 to 120)"
    assert found["differences"] == ["bounds: [0, 120] -> [0, 110]"]
    office.sign(document, "ann", "dp-reviewed")
    until(run, waits(1))
    deployment.restart_coordinator()
    client = deployment.client()
    try:
        again = client.get(run.id)
        assert waits(1)(again.show())
        office.sign(document, "bob")
        again.wait()
        assert again.result()["answer"]["count"] == 60
    finally:
        client.close()


def test_a_revoked_approval_ends_a_run_under_way(
    deployment: Deployment, office: Office, researcher: Coordinator
) -> None:
    document = ping(LONG)
    run = researcher.start(document)
    until(run, waits(0))
    second = office.approve(document)
    until(run, lambda shown: shown["rounds_done"] >= 3)
    how = ["--as", "cem", "--reason", "a mistake", "--passphrase-file", office.secret("cem")]
    office.cli("revoke", second, *how)
    with pytest.raises(PlasmidError) as caught:
        run.wait()
    assert "An approval of the run was revoked at the site. [policy.approval_revoked]" in str(caught.value)
    assert 3 <= run.show()["rounds_done"] < LONG
    revoked = deployment.log("alpha", action="approval.revoked")[-1]["seq"]
    later = [entry["action"] for entry in deployment.log("alpha") if entry["seq"] > revoked]
    assert later.count("released") <= 1  # what was being computed at that moment
    assert deployment.log("alpha", action="failed", rule="policy.approval_revoked")


def test_a_wait_that_is_over_ends_the_run_plainly(
    deployment: Deployment, office: Office, researcher: Coordinator
) -> None:
    """The days pass in the site's record of the run: its clock can't be moved from here."""
    document = ping(2)
    run = researcher.start(document)
    until(run, waits(0))
    (record,) = (office.folder / "approvals" / digest(document)).glob("*.waiting.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"expires": "2026-01-01T00:00:00Z"}))
    policy = office.folder / "policy.yaml"
    policy.write_text(policy.read_text() + "\n")  # the node looks again
    with pytest.raises(PlasmidError) as caught:
        run.wait()
    assert caught.value.code == "run.approval_expired"
    assert (
        "alpha: The run was not approved in time at the site, or an approval has expired. "
        "[policy.approval_expired]" in caught.value.message
    )
    assert run.show()["state"] == "FAILED"
    assert deployment.log("alpha", action="released", run=run.id) == []


def test_a_policy_that_does_not_parse_lets_nothing_out_and_stops_the_next_start(
    deployment: Deployment, office: Office, researcher: Coordinator
) -> None:
    document = ping(LONG)
    policy = office.folder / "policy.yaml"
    sound = policy.read_text()
    policy.write_text(json.dumps({"allow": [digest(document)], "require": {"max_rounds": LONG}}))
    run = researcher.start(document)
    try:
        until(run, lambda shown: shown["rounds_done"] >= 3)
        broken = policy.with_name("policy.new")
        broken.write_text("allow: []\nrequire:\n  max_round: 3\n")
        broken.replace(policy)  # at once, as an editor does: half a file may parse, and refuses otherwise
        with pytest.raises(PlasmidError) as caught:
            run.wait()
        assert "The site's policy file cannot be read, so nothing runs there. [policy.invalid]" in str(
            caught.value
        )
        where = f"{policy}:3: require.max_round: unknown key (did you mean 'max_rounds'?)"
        (told,) = deployment.log("alpha", action="failed", rule="policy.invalid")
        assert told["reason"].startswith(where)
        assert where in (deployment.root / "alpha.log").read_text()
        deployment.kill_site("alpha")
        answer = deployment.cli("alpha", "site", "start", check=False)
        assert (answer["error"]["code"], answer["error"]["message"]) == ("policy.invalid", where)
        assert answer["error"]["hint"] == "Correct the lines named above."
    finally:
        policy.write_text(sound)
