"""The controller: who may plan, launch, see and stop; what its sites are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.coordinator import controller as module
from plasmid.coordinator.controller import Controller
from plasmid.coordinator.database import Runs
from plasmid.coordinator.states import RunState
from plasmid.core.errors import PlasmidError
from plasmid.link.engine import open_engine, sqlite_url
from plasmid.link.projects import ProjectRegistry
from plasmid.link.registry import Member, Registry
from plasmid.link.switchboard import Collected
from plasmid.protocol.enrolment import RosterEntry
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Ask, Signed, open_signed, run_id, sign
from plasmid.protocol.project import Project, ProjectPerson
from support.federation.in_memory import Federation, signed_by

BO, EVE = Identity.generate("bo"), Identity.generate("eve")


class FakeLink:
    """The link server's methods, answered by the federation's gateways."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.asked: list[Ask] = []
        self.opened: dict[str, list[str]] = {}
        self.stopped: list[str] = []
        self._said: dict[str, Signed] = {}

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=getattr(self, f"do_{method}"))

    async def do_online(self) -> list[str]:
        return list(self.federation.sites)

    async def do_open_run(self, run: str, sites: list[str]) -> None:
        self.opened[run] = list(sites)

    async def do_close_run(self, run: str) -> None:
        self.opened.pop(run, None)

    async def do_stop_run(self, run: str) -> None:
        self.stopped.append(run)

    async def do_pulses(self, run: str) -> dict[str, Any]:
        return {}

    async def do_send(self, messages: list[tuple[str, Signed]]) -> None:
        for site, signed in messages:
            gateway = self.federation.gateways[site]
            ask = gateway.open(signed)
            self.asked.append(ask)
            self._said[site] = sign(gateway.identity, gateway.answer(ask))

    async def do_collect(self, run: str, kind: str, sites: list[str], *_: Any) -> Collected:
        return Collected({site: self._said[site] for site in sites}, {}, frozenset())


Made = tuple[Controller, Federation, FakeLink]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Made]]:
    """Return a function that makes a controller over real gateways; no run is really started."""
    engines: list[Any] = []
    monkeypatch.setattr(module, "log_to", lambda folder: None)

    async def never_ends() -> None:
        await asyncio.sleep(0)

    actor = SimpleNamespace(run=SimpleNamespace(remote=never_ends))
    monkeypatch.setattr(module, "start_actor", lambda *_: actor)
    monkeypatch.setattr(module, "ray", SimpleNamespace(kill=lambda _: None))

    def made(**settings: Any) -> Made:
        federation = Federation(tmp_path / "sites", **settings)
        home = tmp_path / "coordinator"
        home.mkdir()
        (home / "identity.key").write_bytes(federation.coordinator.to_pem())
        entries = [
            RosterEntry(name=name, organisation=federation.organisation(name), key=identity.public)
            for name, identity in federation.identities.items()
        ]
        monkeypatch.setattr(Registry, "sites", lambda _: entries)
        link = FakeLink(federation)
        controller = Controller(str(home), sqlite_url(home), link)
        engines.append(controller._runs._engine)
        share(controller, federation.envelope, federation)
        return controller, federation, link

    yield made
    for engine in engines:
        engine.dispose()


def share(controller: Controller, envelope: Any, federation: Federation) -> None:
    """Have ada propose a project."""
    project = envelope.open(Project)
    enrolled = [Member(site.name, "site", site.organisation, site.key) for site in project.sites]
    enrolled += [Member(one.name, "person", one.organisation, one.key) for one in project.people]
    proposer = next(member for member in enrolled if member.role == "person")
    controller._projects.put(envelope, proposer, enrolled)


def with_people(federation: Federation, *people: tuple[Identity, list[Any]]) -> None:
    """Make the project another one, of these people; all sites sign it."""
    listed = [
        ProjectPerson(name=one.name, organisation="lab", key=one.public, roles=roles)
        for one, roles in sorted(people, key=lambda entry: entry[0].name)
    ]
    federation.project = federation.project.model_copy(update={"people": listed})
    federation.envelope = signed_by(federation.project, federation.identities)
    for gateway in federation.gateways.values():
        gateway.projects.keep(federation.envelope)
    federation.new_run("people")


def do(answer: Any) -> Any:
    """Return what a method of the controller answers; an error is returned, too."""
    return asyncio.run(answer)


def code(answer: Any) -> str:
    found = do(answer)
    assert isinstance(found, PlasmidError), found
    return found.code


def test_a_plan_asks_the_project_s_sites_for_the_requester_s_own_request(make: Callable[..., Made]) -> None:
    controller, federation, link = make()
    signed = federation.signed_request()
    plan = do(controller.plan(signed, federation.requester.public))
    assert {site: said["accepted"] for site, said in plan["sites"].items()} == dict.fromkeys(
        federation.sites, True
    )
    assert len(link.asked) == 3
    for ask in link.asked:
        assert ask.request == signed
        assert ask.project.open(Project) == federation.project
        assert ask.run.startswith("ask-")
    assert link.opened == {}
    assert do(controller.runs(federation.requester.public)) == []


def test_a_request_is_one_run(make: Callable[..., Made]) -> None:
    controller, federation, link = make()
    signed = federation.signed_request()
    first = do(controller.create(signed, federation.requester.public))
    assert first == {"run_id": run_id(federation.request())}
    assert do(controller.create(signed, federation.requester.public)) == first
    (run,) = do(controller.runs(federation.requester.public))
    assert run["run_id"] == first["run_id"]
    assert run["project"] == {"name": "trial", "digest": federation.project.digest(), "purpose": "research"}
    request, envelope = controller._runs.asked(first["run_id"])
    assert open_signed(request, federation.requester.public) == federation.request()
    assert envelope.open(Project) == federation.project
    assert link.opened[first["run_id"]] == list(federation.sites)
    other = do(controller.create(federation.signed_request(nonce="1" * 32), federation.requester.public))
    assert other != first


def test_only_the_sites_that_are_invited_and_of_the_project(make: Callable[..., Made]) -> None:
    controller, federation, link = make(sites=("alpha", "beta", "delta", "gamma"))
    key = federation.requester.public
    some = ["alpha", "beta", "gamma"]
    plan = do(controller.plan(federation.signed_request(sites=some), key))
    assert sorted(plan["sites"]) == some
    assert len(link.asked) == 3
    assert code(controller.plan(federation.signed_request(sites=[*some, "zeta"]), key)) == "project.reach"
    assert code(controller.create(federation.signed_request(sites=[*some, "zeta"]), key)) == "project.reach"


def test_who_is_not_of_the_project_neither_plans_nor_launches(make: Callable[..., Made]) -> None:
    controller, federation, link = make()
    with_people(federation, (federation.requester, ["launch"]), (BO, ["receive"]))
    share(controller, federation.envelope, federation)
    request = federation.request()
    for method in (controller.plan, controller.create):
        assert code(method(sign(BO, request), BO.public)) == "project.requester"
        assert code(method(sign(EVE, request), EVE.public)) == "project.unknown"
        # under ada's name, with one's own key and certificate
        forged = sign(BO, request).model_copy(update={"signer": "ada"})
        assert code(method(forged, BO.public)) == "protocol.signature"
    assert link.asked == []
    assert do(controller.create(federation.signed_request(), federation.requester.public))[
        "run_id"
    ]  # control


def test_a_project_that_is_not_in_force_runs_nothing(make: Callable[..., Made]) -> None:
    controller, federation, _ = make()
    key = federation.requester.public
    unsigned = federation.project.model_copy(update={"name": "unsigned"})
    over = federation.project.model_copy(update={"name": "over", "last_day": "2020-01-02"})
    signers = dict(list(federation.identities.items())[:2])
    share(controller, signed_by(unsigned, signers), federation)
    share(controller, signed_by(over, federation.identities), federation)
    for project, found in ((unsigned, "project.unsigned"), (over, "project.dates")):
        assert code(controller.create(federation.signed_request(project=project.digest()), key)) == found


def test_a_run_is_seen_and_stopped_by_people_of_its_project_alone(make: Callable[..., Made]) -> None:
    controller, federation, link = make()
    with_people(federation, (federation.requester, ["launch"]), (BO, ["receive"]))
    share(controller, federation.envelope, federation)
    run = do(controller.create(federation.signed_request(), federation.requester.public))["run_id"]
    for person in (federation.requester, BO):
        assert [one["run_id"] for one in do(controller.runs(person.public))] == [run]
        assert do(controller.show(run, person.public))["run_id"] == run
        assert do(controller.log(run, 0, person.public))
    assert do(controller.runs(EVE.public)) == []
    for ask in (
        controller.show(run, EVE.public),
        controller.log(run, 0, EVE.public),
        controller.stop(run, EVE.public),
        controller.show("no-such-run", federation.requester.public),
    ):
        assert code(ask) == "run.unknown"
    assert link.stopped == []
    assert do(controller.stop(run, BO.public))["run_id"] == run
    assert link.stopped == [run]
    assert do(controller.log(run, 0, BO.public))[-1]["text"] == "bo asks to stop"


def test_the_result_goes_to_those_who_may_receive_it(make: Callable[..., Made]) -> None:
    controller, federation, _ = make()
    with_people(federation, (federation.requester, ["launch"]), (BO, ["receive"]))
    share(controller, federation.envelope, federation)
    run = do(controller.create(federation.signed_request(), federation.requester.public))["run_id"]
    runs = controller._runs
    for state in (RunState.ADMITTING, RunState.SETTING_UP, RunState.RUNNING):
        runs.move(run, state)
    runs.begin_round(run, 1, "a" * 64)
    runs.end_round(run, 1, "b" * 64)
    runs.move(run, RunState.FINISHING)
    runs.move(run, RunState.SUCCEEDED, result={"state": "c" * 64})
    hers = do(controller.show(run, federation.requester.public))
    assert (hers["state"], hers["result"], hers["withheld"]) == ("SUCCEEDED", None, True)
    assert [done["state"] for done in hers["round_log"]] == [None]
    for digest in ("b" * 64, "c" * 64):
        assert digest not in str(hers)
    his = do(controller.show(run, BO.public))
    assert (his["result"], his["withheld"]) == ({"state": "c" * 64}, False)
    assert [done["state"] for done in his["round_log"]] == ["b" * 64]


def test_the_registry_and_the_controller_share_a_database(tmp_path: Path) -> None:
    """Tables of both are made by whichever process comes first."""
    engine = open_engine(sqlite_url(tmp_path))
    ProjectRegistry(engine)
    Runs(engine)
    ProjectRegistry(engine)
    assert ProjectRegistry(engine).of("0" * 64) == []
    engine.dispose()
