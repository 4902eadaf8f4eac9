"""One run: an actor that takes it from CREATED to its end, and always says which.

    admit -> key epoch (advert, bundle, ready) -> rounds -> result

Rules
-----
1. The coordinator relays signed statements; it cannot alter or invent one.
2. Every wait has a deadline; whatever goes wrong, the sites are told that the run is over.
3. A site that refuses is left out before the key epoch, if enough accept; a site that is lost later
   ends the run (protocol version 0 survives no drop-out).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ray
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.controller.context import RunContext
from plasmid.controller.database import Runs
from plasmid.controller.plan import Job, check_roster, colluders, prepare
from plasmid.controller.rounds import EPOCH, Rounds
from plasmid.controller.states import RunState
from plasmid.core.errors import PlasmidError
from plasmid.core.files import storage_error
from plasmid.link.actors import log_to
from plasmid.link.bodies import Bodies
from plasmid.link.engine import open_engine
from plasmid.privacy.statements import PROTOCOL
from plasmid.protocol.body import pack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admit, End, Epoch, Signed

log = logging.getLogger(__name__)
ADMISSION_TIMEOUT_S = 180.0
SETUP_TIMEOUT_S = 120.0


class RunActor:
    """See the module's rules. Started as a Ray actor by the controller."""

    def __init__(
        self, run: str, home: str, database_url: str, link: Any, organisations: dict[str, str]
    ) -> None:
        folder = Path(home)
        log_to(folder)
        self._organisations = organisations
        self._context = RunContext(
            run=run,
            runs=Runs(open_engine(database_url)),
            bodies=Bodies(folder / "bodies"),
            link=link,
            identity=Identity.from_pem("coordinator", (folder / "identity.key").read_bytes()),
        )

    def run(self) -> str:
        """Take the run to its end and return its final state."""
        context = self._context
        runs, run = context.runs, context.run
        end = RunState.FAILED
        try:
            self._go()
            end = RunState.SUCCEEDED
        except PlasmidError as error:
            end = RunState.STOPPED if error.code == "run.stopped" else RunState.FAILED
            runs.move(run, end, error=error.as_dict())
        except OSError as error:
            runs.move(run, end, error=storage_error(error, Path(error.filename or "")).as_dict())
        except Exception as error:
            log.exception("run %s", run)
            what = f"a defect in the coordinator ended the run ({type(error).__name__})."
            hint = "The traceback is in coordinator.log in the coordinator's folder."
            runs.move(run, end, error={"code": "run.internal", "message": what, "hint": hint})
        finally:
            _, _, invited = runs.document(run)
            context.send((site, End(run=run, state=end)) for site in invited)
            ray.get(context.link.close_run.remote(run))
        return end

    def _go(self) -> None:
        runs, run = self._context.runs, self._context.run
        document, digest, invited = runs.document(run)
        job = prepare(document, digest)
        runs.move(run, RunState.ADMITTING, text=f"asking {len(invited)} sites")
        roster, c = self._admit(job, document, invited)
        runs.move(run, RunState.SETTING_UP, text=f"{len(roster)} sites, c = {c}")
        rho = self._key_epoch(job, roster, c)
        runs.move(run, RunState.RUNNING, text=f"{job.document.rounds} rounds")
        state = Rounds(self._context, job, roster, rho).run()
        runs.move(run, RunState.FINISHING)
        runs.move(run, RunState.SUCCEEDED, result=self._result(job, roster, state, c, rho))

    def _admit(self, job: Job, document: dict[str, Any], invited: list[str]) -> tuple[list[str], int]:
        """Return the sites that take part, in order, and the plan's c."""
        context = self._context
        request = Admit(run=context.run, document=document, digest=job.digest)
        online = [site for site in ray.get(context.link.online.remote()) if site in invited]
        context.send((site, request) for site in online)
        answers = context.collect("admission", online, timeout_s=ADMISSION_TIMEOUT_S, watch=False)
        refused = {
            site: "it did not answer" if site in online else "it is not connected"
            for site in invited
            if site not in answers
        }
        for site, signed in answers.items():
            said = signed.payload
            accepted, code, sentence = said["accepted"], said["code"], said["sentence"]
            context.runs.admit(context.run, site, accepted=accepted, code=code, sentence=sentence)
            if not accepted:
                refused[site] = f"{sentence} [{code}]"
        roster = sorted(set(invited) - set(refused))
        organisations = {site: self._organisations[site] for site in roster}
        c = colluders(organisations, job.document.federation.colluding_organisations)
        check_roster(job, roster, refused, c)
        return roster, c

    def _key_epoch(self, job: Job, roster: list[str], c: int) -> str | None:
        """Take the sites through the key epoch and return rho; None where nothing is masked."""
        context = self._context
        request = Epoch(run=context.run, epoch=EPOCH, roster=roster, slots=job.document.rounds, c=c)
        context.send((site, request) for site in roster)
        if not job.masked:
            return None
        adverts = context.collect("advert", roster, timeout_s=SETUP_TIMEOUT_S)
        context.relay("advert", {site: list(adverts.values()) for site in roster})
        sent = context.collect("bundles", roster, timeout_s=SETUP_TIMEOUT_S)
        addressed: dict[str, list[Signed]] = {site: [] for site in roster}
        for signed in sent.values():
            for bundle in map(Signed.model_validate, signed.payload["statements"]):
                if bundle.payload.get("receiver") in addressed:
                    addressed[bundle.payload["receiver"]].append(bundle)
        context.relay("bundle", addressed)
        ready = context.collect("ready", roster, timeout_s=SETUP_TIMEOUT_S)
        context.relay("ready", {site: list(ready.values()) for site in roster})
        return str(ready[roster[0]].payload["rho"])

    def _result(
        self, job: Job, roster: list[str], state: NDArray[Any], c: int, rho: str | None
    ) -> dict[str, Any]:
        body = pack("state", state)
        computation: Any = api.load(job.document.computation)
        answers = hasattr(computation, "result")
        return {
            **job.plan(len(roster)),
            "participants": roster,
            "state": self._context.bodies.publish(body),
            "state_bytes": len(body),
            "answer": computation.result(job.document, state, len(roster)) if answers else None,
            "protocol": PROTOCOL if job.masked else "none",
            "n": len(roster),
            "c": c,
            "rho": rho,
        }
