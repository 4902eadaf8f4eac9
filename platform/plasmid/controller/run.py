"""One run: a Ray actor that takes it from CREATED to its end, and always says which.

    admit -> key epoch (advert, bundle, ready) -> rounds (manifest, contributions, sum, server step) -> result

Rules
-----
1. The coordinator relays statements and sums words. It never holds a key that opens a contribution.
2. Sum and decode happen here, from bodies on disk; only digests and messages cross Ray.
3. Every wait has a deadline; whatever goes wrong, the sites are told that the run is over.
4. In protocol version 0 the sum exists over the whole roster only: a site that is lost ends the run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.controller.database import Runs, open_engine
from plasmid.controller.plan import Job, check_roster, colluders, prepare
from plasmid.controller.states import RunState
from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.core.files import storage_error
from plasmid.federation.server import ServerOptimiser, build_strategy
from plasmid.link.actorlog import log_to
from plasmid.link.bodies import Bodies
from plasmid.privacy.ring import TAIL, Encoding, decode_sum
from plasmid.privacy.secure_aggregation import PROTOCOL
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Admit,
    Contribution,
    End,
    Epoch,
    Manifest,
    Message,
    Relay,
    Signed,
    sign,
)

log = logging.getLogger(__name__)
ADMISSION_TIMEOUT_S = 180.0
SETUP_TIMEOUT_S = 120.0
EPOCH = 1


@ray.remote(num_cpus=0)
class RunActor:
    """See the module's rules."""

    def __init__(self, run: str, home: str, database_url: str, link: Any, organisations: dict[str, str]) -> None:
        log_to(Path(home))
        self._run_id = run
        self._runs = Runs(open_engine(database_url))
        self._bodies = Bodies(Path(home) / "bodies")
        self._link = link
        self._organisations = organisations
        self._identity = Identity.from_pem("coordinator", (Path(home) / "identity.key").read_bytes())

    def run(self) -> str:
        """Take the run to its end and return its final state."""
        end = RunState.FAILED
        try:
            self._go()
            end = RunState.SUCCEEDED
        except PlasmidError as error:
            end = RunState.STOPPED if error.code == "run.stopped" else RunState.FAILED
            self._runs.move(self._run_id, end, error=error.as_dict())
        except OSError as error:
            self._runs.move(self._run_id, end, error=storage_error(error, Path(error.filename or "")).as_dict())
        except Exception as error:
            detail = {"code": "run.internal", "message": f"{type(error).__name__} in the run actor.", "hint": ""}
            self._runs.move(self._run_id, end, error=detail)
            log.exception("run %s", self._run_id)
            raise
        finally:
            _, _, invited = self._runs.document(self._run_id)
            self._send((site, End(run=self._run_id, state=end)) for site in invited)
            ray.get(self._link.close_run.remote(self._run_id))
        return end

    def _go(self) -> None:
        document, digest, invited = self._runs.document(self._run_id)
        job = prepare(document, digest)
        ray.get(self._link.open_run.remote(self._run_id))
        self._runs.move(self._run_id, RunState.ADMITTING, text=f"asking {len(invited)} sites")
        roster = self._admit(job, document, invited)
        c = colluders({s: self._organisations[s] for s in roster}, job.document.federation.colluding_organisations)
        self._runs.move(self._run_id, RunState.SETTING_UP, text=f"{len(roster)} sites, c = {c}")
        rho = self._key_epoch(job, roster, c)
        self._runs.move(self._run_id, RunState.RUNNING, text=f"{job.document.rounds} rounds")
        state = _Rounds(self, job, roster, rho).all()
        self._runs.move(self._run_id, RunState.FINISHING)
        result = self._result(job, roster, state, c, rho)
        self._runs.move(self._run_id, RunState.SUCCEEDED, result=result)

    def _admit(self, job: Job, document: dict[str, Any], invited: list[str]) -> list[str]:
        request = Admit(run=self._run_id, document=document, digest=job.digest)
        self._send((site, request) for site in invited)
        answers = self._collect("admission", invited, timeout_s=ADMISSION_TIMEOUT_S, watch=False)
        refused: dict[str, str] = {site: "did not answer" for site in invited if site not in answers}
        for site, signed in answers.items():
            admission = signed.payload
            self._runs.admit(
                self._run_id,
                site,
                accepted=admission["accepted"],
                code=admission["code"],
                sentence=admission["sentence"],
            )
            if not admission["accepted"]:
                refused[site] = f"{admission['sentence']} [{admission['code']}]"
        roster = sorted(set(invited) - set(refused))
        organisations = {site: self._organisations[site] for site in roster}
        c = colluders(organisations, job.document.federation.colluding_organisations)
        check_roster(job, roster, refused, c)
        for site in refused:
            self._send([(site, End(run=self._run_id, state="REFUSED"))])
        return roster

    def _key_epoch(self, job: Job, roster: list[str], c: int) -> str | None:
        request = Epoch(run=self._run_id, epoch=EPOCH, roster=roster, slots=job.document.rounds, c=c)
        self._send((site, request) for site in roster)
        if not job.masked:
            return None
        adverts = self._collect("advert", roster, timeout_s=SETUP_TIMEOUT_S)
        self._relay("advert", {site: list(adverts.values()) for site in roster})
        sent = self._collect("bundles", roster, timeout_s=SETUP_TIMEOUT_S)
        addressed: dict[str, list[Signed]] = {site: [] for site in roster}
        for signed in sent.values():
            for bundle in map(Signed.model_validate, signed.payload["statements"]):
                if bundle.payload.get("receiver") in addressed:
                    addressed[bundle.payload["receiver"]].append(bundle)
        self._relay("bundle", addressed)
        ready = self._collect("ready", roster, timeout_s=SETUP_TIMEOUT_S)
        self._relay("ready", {site: list(ready.values()) for site in roster})
        return str(next(iter(ready.values())).payload["rho"])

    def _result(
        self, job: Job, roster: list[str], state: NDArray[Any], c: int, rho: str | None
    ) -> dict[str, Any]:
        body = pack("state", state)
        computation: Any = api.load(job.document.computation)
        answer = computation.result(job.document, state, len(roster)) if hasattr(computation, "result") else None
        return {
            **job.plan(len(roster)),
            "participants": roster,
            "state": self._bodies.publish(body),
            "state_bytes": len(body),
            "answer": answer,
            "protocol": PROTOCOL if job.masked else "none",
            "n": len(roster),
            "c": c,
            "rho": rho,
        }

    # -- what the parts share ----------------------------------------------------------------------

    def _send(self, messages: Iterable[tuple[str, Message]]) -> None:
        signed: dict[int, Signed] = {}
        out = []
        for site, message in messages:
            if id(message) not in signed:
                signed[id(message)] = sign(self._identity, message)
            out.append((site, signed[id(message)]))
        ray.get(self._link.send.remote(out))

    def _relay(self, kind: Any, statements: dict[str, list[Signed]]) -> None:
        self._send(
            [(site, Relay(run=self._run_id, kind=kind, statements=said)) for site, said in statements.items()]
        )

    def _collect(
        self, kind: str, sites: Sequence[str], *, timeout_s: float, round_: int = 0, watch: bool = True
    ) -> dict[str, Signed]:
        answer = ray.get(self._link.collect.remote(self._run_id, kind, list(sites), round_, timeout_s, watch))
        if isinstance(answer, PlasmidError):
            raise answer
        return dict(answer)


class _Rounds:
    """The rounds of one run."""

    def __init__(self, actor: Any, job: Job, roster: list[str], rho: str | None) -> None:
        self._actor, self._job, self._roster, self._rho = actor, job, roster, rho
        self._computation = api.load(job.document.computation)
        self._encoding = job.encoding(len(roster))
        self._state_digest = ""

    def all(self) -> NDArray[Any]:
        """Run every round and return the last state."""
        job, actor = self._job, self._actor
        size = len(pack("words", np.zeros(self._encoding.length + TAIL, self._encoding.dtype)))
        ray.get(actor._link.expect.remote(actor._run_id, size))
        state = self._computation.initial(job.document, job.shape)
        server = getattr(job.document.federation, "server", None)
        optimiser = server and ServerOptimiser(build_strategy(server.strategy, server.options), job.shape.schema)
        for round_ in range(1, job.document.rounds + 1):
            before = self._publish(state)
            if optimiser:
                schema = job.shape.schema

                def secure(arrays: dict[str, NDArray[Any]], round_: int = round_) -> dict[str, NDArray[Any]]:
                    return schema.unflatten(self._round(round_, schema.flatten(arrays)))

                state = optimiser.step(round_, state, secure)
            else:
                state = self._round(round_, state)
            actor._runs.end_round(actor._run_id, round_, self._publish(state))
            actor._runs.say(actor._run_id, f"round {round_} of {job.document.rounds} done")
            if before != self._state_digest:
                actor._bodies.published(before).unlink(missing_ok=True)
        return state

    def _publish(self, state: NDArray[Any]) -> str:
        body = pack("state", state)
        self._state_bytes = len(body)
        self._state_digest = self._actor._bodies.publish(body)
        return self._state_digest

    def _round(self, round_: int, state: NDArray[Any]) -> NDArray[Any]:
        """Return what the computation makes of one secure sum over the whole roster."""
        actor, job = self._actor, self._job
        manifest = self._manifest(round_)
        actor._runs.begin_round(actor._run_id, round_, manifest.digest())
        actor._send((site, manifest) for site in self._roster)
        signed = actor._collect(
            "contribution",
            self._roster,
            round_=round_,
            timeout_s=job.document.federation.round_timeout_s,
        )
        bodies = [self._checked(Contribution.model_validate(s.payload), manifest) for s in signed.values()]
        total = sum_bodies(bodies, self._encoding)
        for body in bodies:
            body.unlink()
        decoded = decode_sum(total, self._encoding, len(self._roster))
        return self._computation.advance(job.document, state, decoded, len(self._roster))

    def _checked(self, contribution: Contribution, manifest: Manifest) -> Path:
        if contribution.manifest != manifest.digest():
            raise ProtocolError(
                "protocol.manifest", f"{contribution.site} answered another manifest than the one sent."
            )
        path: Path = self._actor._bodies.received(self._actor._run_id, contribution.body)
        if not path.exists():
            raise ProtocolError("protocol.body", f"{contribution.site} named a body that it did not upload.")
        return path

    def _manifest(self, round_: int) -> Manifest:
        job, encoding = self._job, self._encoding
        return Manifest(
            protocol=PROTOCOL if job.masked else "none",
            run=self._actor._run_id,
            epoch=EPOCH,
            slot=round_ - 1,
            round=round_,
            rho=self._rho,
            document=job.digest,
            base=job.base.digest if job.base else None,
            state=self._state_digest,
            state_bytes=self._state_bytes,
            invited=self._roster,
            ring_bits=encoding.bits,
            scale_log2=encoding.scale_log2,
            bound=encoding.bound,
            length=encoding.length,
            min_sites=job.document.federation.min_sites,
        )


def sum_bodies(bodies: Sequence[Path], encoding: Encoding) -> NDArray[Any]:
    """Return the ring sum [length + TAIL] of contribution bodies; one is in memory at a time."""
    total = np.zeros(encoding.length + TAIL, dtype=encoding.dtype)
    for path in bodies:
        total += unpack(path.read_bytes(), "words", length=total.size, dtype=encoding.dtype)
    return total
