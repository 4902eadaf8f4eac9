"""One run: an actor that takes it from CREATED to its end, and always says which.

    admit -> key epoch -> rounds -> audit -> countersignatures -> result

Rules
-----
1. The coordinator relays signed statements; it cannot alter or invent one.
2. Every wait has a deadline; whatever goes wrong, the sites are told that the run is over.
3. A site that refuses is left out before the key epoch, if enough accept; one that is lost later drops out of
   the sums (:mod:`plasmid.coordinator.secure_sum`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.coordinator.admission import Admissions
from plasmid.coordinator.context import RunContext
from plasmid.coordinator.countersign import conclude
from plasmid.coordinator.database import Runs
from plasmid.coordinator.plan import Job, prepare
from plasmid.coordinator.rounds import Rounds
from plasmid.coordinator.secure_sum import SecureSum
from plasmid.coordinator.states import RunState
from plasmid.core.errors import PlasmidError, RunFailed
from plasmid.core.files import storage_error
from plasmid.dp.canary_audit import Audit
from plasmid.link.actors import log_to
from plasmid.link.bodies import Bodies
from plasmid.link.engine import open_engine
from plasmid.protocol.body import pack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import End, UnitTerms
from plasmid.secagg.statements import PROTOCOL

log = logging.getLogger(__name__)


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
            context.close()
        return end

    def _go(self) -> None:
        runs, run = self._context.runs, self._context.run
        document, digest, invited = runs.document(run)
        job = prepare(document, digest)
        terms = Admissions(self._context, self._organisations).admit(job, invited)
        sums = SecureSum(self._context, job, terms, self._organisations)
        runs.move(run, RunState.SETTING_UP, text=f"{len(terms)} sites")
        sums.begin()
        runs.move(run, RunState.RUNNING, text=f"{job.document.rounds} rounds")
        rounds = Rounds(self._context, job, sums)
        state = rounds.run()
        runs.move(run, RunState.FINISHING)
        audit = self._audit(job, rounds)
        record = self._result(job, terms, sums, rounds, state, audit)
        if api.makes_adapter(api.load(job.document.computation)):
            record["signed"] = conclude(self._context, job, sums.account, state, rounds.last, record)
        runs.move(run, RunState.SUCCEEDED, result=record)

    def _audit(self, job: Job, rounds: Rounds) -> Audit | None:
        """Audit the final state where the document asks for it.

        Raises
        ------
        RunFailed
            ``run.audit_failed``: the audit shows more than the document promises, and it is a gate.
        """
        privacy = job.document.privacy
        plan = getattr(privacy, "audit", None)
        if plan is None:
            return None
        audit = rounds.audit()
        self._context.runs.say(self._context.run, audit.sentence)
        if plan.gate and audit.verdict == "failed":
            raise RunFailed(
                "run.audit_failed",
                f"the canary audit failed: {audit.sentence}",
                "No adapter is released. Look for what trains without clip or noise, and start again.",
            )
        return audit

    def _result(
        self,
        job: Job,
        terms: Mapping[str, UnitTerms | None],
        sums: SecureSum,
        rounds: Rounds,
        state: NDArray[Any],
        audit: Audit | None,
    ) -> dict[str, Any]:
        body = pack("state", state)
        computation: Any = api.load(job.document.computation)
        answers = hasattr(computation, "result")
        account = sums.account
        sites = len(account.survivors[-1])
        last = account.epochs[-1]
        assert sums.planned is not None, "there were epochs"
        return {
            **job.plan(last["n"], last["c"], sums.planned),
            "rounds": rounds.done,
            "near_state": rounds.near_state,
            "held_back": rounds.choice.as_json() if rounds.choice else None,
            "participants": sorted({site for survivors in account.survivors for site in survivors}),
            "state": self._context.bodies.publish(body),
            "state_bytes": len(body),
            "answer": computation.result(job.document, state, sites) if answers else None,
            "protocol": PROTOCOL if job.masked else "none",
            "n": last["n"],
            "c": last["c"],
            "rho": sums.rho,
            "attempts_used": account.attempts,
            "survivors": account.survivors,
            "epochs": account.epochs,
            "terms": {site: term.model_dump() if term else None for site, term in terms.items()},
            "audit": audit.as_json() if audit else None,
            "signed": None,
        }
