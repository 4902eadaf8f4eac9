"""The controller: a detached Ray actor that plans and creates runs, one run actor each.

A run is shown to, and stopped by, people of its project alone; its result goes to those who may receive it.
Known errors are returned, not raised: so they cross Ray as themselves.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import ray
from sqlalchemy import Engine

from plasmid.coordinator.database import Runs
from plasmid.coordinator.plan import Job, check_named, check_roster, colluders, prepare
from plasmid.coordinator.run import RunActor
from plasmid.coordinator.states import RunState
from plasmid.core.clock import now
from plasmid.core.errors import LinkError, PlasmidError, RunFailed
from plasmid.link.actors import log_to, start_actor
from plasmid.link.engine import open_engine
from plasmid.link.projects import ProjectRegistry
from plasmid.link.registry import Registry
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Ask, RunRequest, Signed, open_signed, run_id, sign
from plasmid.protocol.project import Project, ProjectPerson, open_project

ASK_TIMEOUT_S = 120.0

Method = Callable[..., Awaitable[Any]]


def _errors_as_values(method: Method) -> Method:
    @wraps(method)
    async def guarded(*arguments: Any) -> Any:
        try:
            return await method(*arguments)
        except PlasmidError as error:
            return error

    return guarded


class Controller:
    """See the module's docstring. Every method answers with JSON values or an error."""

    def __init__(self, home: str, database_url: str, link: Any) -> None:
        self._home = Path(home)
        log_to(self._home)
        self._database_url = database_url
        engine: Engine = open_engine(database_url)
        self._runs = Runs(engine)
        self._registry = Registry(engine)
        self._projects = ProjectRegistry(engine)
        self._link = link
        self._identity = Identity.from_pem("coordinator", (self._home / "identity.key").read_bytes())
        self._actors: dict[str, Any] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}

    async def ready(self) -> list[str]:
        """Mark what an earlier coordinator left unfinished, return their ids, and let the waiting wait on."""
        left = self._runs.interrupt_unfinished()
        for run, invited in self._runs.awaiting().items():
            await self._start(run, invited)
        return left

    @_errors_as_values
    async def plan(self, signed: Signed, key: str) -> dict[str, Any]:
        """Return what a run would be, and which sites would admit it; *key* is the requester's.

        The figures are those of the sites that accept; of all that are invited while too few do.
        """
        request, project, envelope = self._asked(signed, key)
        job = await asyncio.to_thread(prepare, request.document, request.digest, planning=True)
        invited = self._invited(request, project)
        check_named(job, invited)
        ask = Ask(run=_question(), request=signed, project=envelope)
        timeout_s = max(ASK_TIMEOUT_S, job.document.federation.round_timeout_s)
        answers = await self._ask_sites(ask, invited, timeout_s)
        accepting = [site for site, said in answers.items() if said["accepted"] or said["pending"]]
        organisations = self._organisations()
        terms = [answers[site]["terms"] for site in accepting if answers[site]["terms"]]
        roster = accepting if len(accepting) >= job.document.federation.min_sites else invited
        c = colluders(
            {site: organisations[site] for site in roster},
            job.document.federation.colluding_organisations,
        )
        rate = max((term["rate"] for term in terms), default=1.0)
        figures = job.plan(len(roster), c, job.planned(len(roster), c, rate))
        return {**figures, "sites": answers, "n": len(roster), "c": c}

    @_errors_as_values
    async def create(self, signed: Signed, key: str) -> dict[str, Any]:
        """Create a run and start it; the same request again returns the same run."""
        request, project, envelope = self._asked(signed, key)
        job: Job = await asyncio.to_thread(prepare, request.document, request.digest)
        invited = self._invited(request, project)
        check_named(job, invited)
        organisations = self._organisations()
        check_roster(job, invited, {}, colluders({s: organisations[s] for s in invited}, 0))
        run = run_id(request)
        self._runs.create(run, request=signed, project=envelope, invited=invited, rounds=job.document.rounds)
        await self._start(run, invited)
        return {"run_id": run}

    async def _start(self, run: str, invited: list[str]) -> None:
        """Start the actor of an unfinished run that has none."""
        await self._link.open_run.remote(run, invited)
        if run not in self._actors and not self._runs.state(run).final:
            actor = start_actor(
                RunActor,
                f"run-{run}",
                run,
                str(self._home),
                self._database_url,
                self._link,
                self._organisations(),
            )
            self._actors[run] = actor
            self._ends[run] = asyncio.create_task(self._watch(run, actor))

    async def _watch(self, run: str, actor: Any) -> None:
        try:
            await actor.run.remote()
        except Exception as error:  # noqa: BLE001 - the actor died or failed: the run must not stay open
            if not RunState(self._runs.show(run)["state"]).final:
                detail = {
                    "code": "run.actor_died",
                    "message": f"the run's actor ended unexpectedly ({type(error).__name__}).",
                    "hint": "See the coordinator's log, then start the run again.",
                }
                self._runs.move(run, RunState.FAILED, error=detail)
                await self._link.close_run.remote(run)
        finally:
            ray.kill(actor)
            self._actors.pop(run, None)
            self._ends.pop(run, None)

    @_errors_as_values
    async def runs(self, key: str) -> list[dict[str, Any]]:
        """Return a summary of every run of the projects of the person with *key*, newest first."""
        own = {envelope.open(Project).digest() for envelope in self._projects.of(key)}
        return self._runs.all(own)

    @_errors_as_values
    async def show(self, run: str, key: str) -> dict[str, Any]:
        """Return all that is known of a run, with each site's progress in the current round.

        Who may not receive the result sees neither it nor the names of the states.
        """
        shown = _for(self._person(run, key), self._runs.show(run))
        pulses = await self._link.pulses.remote(run)
        return {
            **shown,
            "progress": {site: {"round": r, "step": s, "steps": n} for site, (r, s, n) in pulses.items()},
        }

    @_errors_as_values
    async def log(self, run: str, after: int, key: str) -> list[dict[str, Any]]:
        """Return a run's log lines numbered above *after*."""
        self._person(run, key)
        return self._runs.log(run, after)

    @_errors_as_values
    async def stop(self, run: str, key: str) -> dict[str, Any]:
        """Stop a run; a finished one stays as it is."""
        person = self._person(run, key)
        state = RunState(self._runs.show(run)["state"])
        if not state.final:
            self._runs.say(run, f"{person.name} asks to stop")
            await self._link.stop_run.remote(run)
        return {"run_id": run, "state": state}

    @_errors_as_values
    async def expel(self, person: str) -> list[str]:
        """Stop what a person has launched who is a member no more; return those runs."""
        runs = [run["run_id"] for run in self._runs.all() if run["requester"] == person]
        open_ = [run for run in runs if not self._runs.state(run).final]
        for run in open_:
            self._runs.say(run, f"{person}, who asked for it, is revoked")
            await self._link.stop_run.remote(run)
        return open_

    def _organisations(self) -> dict[str, str]:
        return {entry.name: entry.organisation for entry in self._registry.sites()}

    def _asked(self, signed: Signed, key: str) -> tuple[RunRequest, Project, Envelope]:
        """Return the request of the person with *key* and its project, where that lets it launch now.

        Raises
        ------
        ProjectRefused
            ``project.unknown``, ``project.unsigned``, ``project.dates``, ``project.requester``.
        """
        request: RunRequest = open_signed(signed, key)
        envelope = self._projects.get(request.project, key)
        project = open_project(envelope)
        project.check_dates(now())
        open_signed(signed, project.launcher(signed.signer).key)  # as every gateway will
        return request, project, envelope

    def _person(self, run: str, key: str) -> ProjectPerson:
        """Return who has *key* in the project of *run*. Raises RunFailed (``run.unknown``), as for no run."""
        for person in self._runs.project(run).people:
            if person.key == key:
                return person
        raise RunFailed("run.unknown", f"there is no run {run!r}.", "'plasmid runs ls' lists them.")

    def _invited(self, request: RunRequest, project: Project) -> list[str]:
        wanted = set(request.sites or [site.name for site in project.sites])
        project.check_reach(wanted)
        enrolled = sorted(self._organisations())
        unknown = sorted(wanted - set(enrolled))
        if unknown:
            raise LinkError(
                "link.site_unknown",
                f"not enrolled here: {', '.join(unknown)}.",
                f"Enrolled are: {', '.join(enrolled) or 'none'}.",
            )
        return sorted(wanted)

    async def _ask_sites(self, ask: Ask, invited: list[str], timeout_s: float) -> dict[str, dict[str, Any]]:
        asked, question = ask.run, sign(self._identity, ask)
        online = [site for site in await self._link.online.remote() if site in invited]
        await self._link.open_run.remote(asked, online)
        try:
            await self._link.send.remote([(site, question) for site in online])
            collected = await self._link.collect.remote(asked, "admission", online, timeout_s, None)
        finally:
            await self._link.close_run.remote(asked)
        answers = collected.got
        silent = {
            "accepted": False,
            "code": "link.offline",
            "sentence": "The site is not connected.",
            "terms": None,
            "pending": None,
        }
        return {
            site: {key: answers[site].payload[key] for key in silent} if site in answers else dict(silent)
            for site in invited
        }


def _question() -> str:
    """Return a name for a question, under which its answers are collected."""
    return f"ask-{secrets.token_hex(8)}"


def _for(person: ProjectPerson, shown: dict[str, Any]) -> dict[str, Any]:
    """Return what *person* may see of a run: without ``receive``, nothing that leads to a result."""
    if "receive" in person.roles:
        return {**shown, "withheld": False}
    rounds = [{**done, "state": None} for done in shown["round_log"]]
    return {**shown, "result": None, "round_log": rounds, "withheld": True}
