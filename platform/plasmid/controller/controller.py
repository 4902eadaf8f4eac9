"""The controller: a detached Ray actor that plans and creates runs, one run actor each.

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

from plasmid.controller.database import Runs
from plasmid.controller.plan import Job, check_roster, colluders, prepare
from plasmid.controller.run import RunActor
from plasmid.controller.states import RunState
from plasmid.core.errors import LinkError, PlasmidError
from plasmid.link.actors import log_to, start_actor
from plasmid.link.engine import open_engine
from plasmid.link.registry import Registry
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Ask, RunRequest, sign

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
        self._link = link
        self._identity = Identity.from_pem("coordinator", (self._home / "identity.key").read_bytes())
        self._actors: dict[str, Any] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}

    async def ready(self) -> list[str]:
        """Mark what an earlier coordinator left unfinished and return those runs' ids."""
        return self._runs.interrupt_unfinished()

    @_errors_as_values
    async def plan(self, request: RunRequest) -> dict[str, Any]:
        """Return what a run would be, and which sites would admit it.

        The figures are those of the sites that accept; of all that are invited while too few do.
        """
        job = await asyncio.to_thread(prepare, request.document, request.digest)
        invited = self._invited(request)
        answers = await self._ask_sites(request, invited)
        accepting = [site for site, answer in answers.items() if answer["accepted"]]
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
    async def create(self, request: RunRequest, requester: str) -> dict[str, Any]:
        """Create a run and start it; the same request again returns the same run."""
        job: Job = await asyncio.to_thread(prepare, request.document, request.digest)
        invited = self._invited(request)
        organisations = self._organisations()
        check_roster(job, invited, {}, colluders({s: organisations[s] for s in invited}, 0))
        name = str(request.document.get("name", request.document["computation"]))[:40]
        run = self._runs.create(
            f"{name.replace('_', '-')}-{secrets.token_hex(4)}",
            document=request.document,
            digest=job.digest,
            requester=requester,
            nonce=request.nonce,
            invited=invited,
            rounds=job.document.rounds,
        )
        await self._link.open_run.remote(run, invited)
        if run not in self._actors and not RunState(self._runs.show(run)["state"]).final:
            actor = start_actor(
                RunActor, f"run-{run}", run, str(self._home), self._database_url, self._link, organisations
            )
            self._actors[run] = actor
            self._ends[run] = asyncio.create_task(self._watch(run, actor))
        return {"run_id": run}

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
    async def runs(self) -> list[dict[str, Any]]:
        """Return a summary of every run, newest first."""
        return self._runs.all()

    @_errors_as_values
    async def show(self, run: str) -> dict[str, Any]:
        """Return all that is known of a run, with each site's progress in the current round."""
        shown = self._runs.show(run)
        pulses = await self._link.pulses.remote(run)
        return {
            **shown,
            "progress": {site: {"round": r, "step": s, "steps": n} for site, (r, s, n) in pulses.items()},
        }

    @_errors_as_values
    async def log(self, run: str, after: int) -> list[dict[str, Any]]:
        """Return a run's log lines numbered above *after*."""
        return self._runs.log(run, after)

    @_errors_as_values
    async def stop(self, run: str, requester: str) -> dict[str, Any]:
        """Stop a run; a finished one stays as it is."""
        state = RunState(self._runs.show(run)["state"])
        if not state.final:
            self._runs.say(run, f"{requester} asks to stop")
            await self._link.stop_run.remote(run)
        return {"run_id": run, "state": state}

    def _organisations(self) -> dict[str, str]:
        return {entry.name: entry.organisation for entry in self._registry.sites()}

    def _invited(self, request: RunRequest) -> list[str]:
        enrolled = sorted(self._organisations())
        unknown = sorted(set(request.sites or ()) - set(enrolled))
        if unknown:
            raise LinkError(
                "link.site_unknown",
                f"not enrolled here: {', '.join(unknown)}.",
                f"Enrolled are: {', '.join(enrolled) or 'none'}.",
            )
        return enrolled if request.sites is None else sorted(set(request.sites))

    async def _ask_sites(self, request: RunRequest, invited: list[str]) -> dict[str, dict[str, Any]]:
        asked = f"ask-{secrets.token_hex(8)}"
        online = [site for site in await self._link.online.remote() if site in invited]
        question = sign(self._identity, Ask(run=asked, document=request.document, digest=request.digest))
        await self._link.open_run.remote(asked, online)
        try:
            await self._link.send.remote([(site, question) for site in online])
            collected = await self._link.collect.remote(asked, "admission", online, ASK_TIMEOUT_S, None)
        finally:
            await self._link.close_run.remote(asked)
        answers = collected.got
        silent = {
            "accepted": False,
            "code": "link.offline",
            "sentence": "The site is not connected.",
            "terms": None,
        }
        return {
            site: {key: answers[site].payload[key] for key in silent} if site in answers else dict(silent)
            for site in invited
        }
