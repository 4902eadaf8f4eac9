"""Runs, rounds, participants and the run log, through SQLAlchemy. SQLite by default, any URL works.

Rules
-----
1. A run exists here before anything about it is sent.
2. The request that a run comes from, and the project that it belongs to, are kept as they were signed.
3. A state changes only along :mod:`plasmid.coordinator.states`; the change and its log line are one
   transaction.
4. A round's row is written when its manifest is made and completed with the digest of the next state.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, ForeignKey, String, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from plasmid.coordinator.states import FINAL, RunState, may_follow
from plasmid.core.errors import RunFailed
from plasmid.link.engine import create_tables
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.messages import Admission, Pending, Signed, parse_signed, wire
from plasmid.protocol.project import Project


class _Base(DeclarativeBase):
    pass


class _Run(_Base):
    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    computation: Mapped[str] = mapped_column(String(63))
    digest: Mapped[str] = mapped_column(String(64))
    request: Mapped[str] = mapped_column(Text)
    project: Mapped[str] = mapped_column(String(64), index=True)
    envelope: Mapped[str] = mapped_column(Text)
    requester: Mapped[str] = mapped_column(String(63))
    invited: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(32))
    rounds: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime]
    updated: Mapped[datetime]


class _Participant(_Base):
    __tablename__ = "participants"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    accepted: Mapped[bool]
    code: Mapped[str] = mapped_column(String(64))
    sentence: Mapped[str] = mapped_column(Text)
    have: Mapped[int]
    need: Mapped[int]
    expires: Mapped[str | None] = mapped_column(String(32))


class _Round(_Base):
    __tablename__ = "rounds"
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    manifest: Mapped[str] = mapped_column(String(64))
    started: Mapped[datetime]
    ended: Mapped[datetime | None]
    state_digest: Mapped[str | None] = mapped_column(String(64))


class _Line(_Base):
    __tablename__ = "log"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    time: Mapped[datetime]
    text: Mapped[str] = mapped_column(Text)


class Runs:
    """All runs of one coordinator."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        create_tables(engine, _Base.metadata)

    def create(
        self,
        run: str,
        *,
        request: Signed,
        project: Envelope,
        invited: list[str],
        rounds: int,
    ) -> None:
        """Record the run *run* of *request*, unless it is there already."""
        document, digest = request.payload["document"], request.payload["digest"]
        named = project.open(Project)
        with Session(self._engine) as session, session.begin():
            if session.get(_Run, run) is not None:
                return
            now = _now()
            session.add(
                _Run(
                    id=run,
                    name=str(document.get("name", document["computation"])),
                    computation=str(document["computation"]),
                    digest=digest,
                    request=wire(request).decode(),
                    project=named.digest(),
                    envelope=project.wire().decode(),
                    requester=request.signer,
                    invited=json.dumps(invited),
                    state=RunState.CREATED,
                    rounds=rounds,
                    error=None,
                    result=None,
                    created=now,
                    updated=now,
                )
            )
            session.flush()
            text = f"created by {request.signer} in {named.name}, digest {digest}"
            session.add(_Line(run=run, time=now, text=text))

    def move(
        self,
        run: str,
        state: RunState,
        *,
        text: str = "",
        error: dict[str, str] | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Change a run's state. Raises RunFailed (``run.state``) where the machine does not allow it."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(_Run, run)
            if not may_follow(RunState(row.state), state):
                raise RunFailed("run.state", f"the run {run} is {row.state} and cannot become {state}.")
            row.state, row.updated = state, _now()
            row.error = json.dumps(error) if error else row.error
            row.result = json.dumps(result) if result else row.result
            line = f"{state}: {text or (error or {}).get('message', '')}".rstrip(": ")
            session.add(_Line(run=run, time=_now(), text=line))

    def say(self, run: str, text: str) -> None:
        """Append a line to a run's log."""
        with Session(self._engine) as session, session.begin():
            session.add(_Line(run=run, time=_now(), text=text))

    def admit(self, run: str, site: str, said: Admission) -> None:
        """Record a site's answer."""
        pending = said.pending
        with Session(self._engine) as session, session.begin():
            known = session.get(_Participant, (run, site))
            need = pending.need if pending else known.need if known else 0
            session.merge(
                _Participant(
                    run=run,
                    site=site,
                    accepted=said.accepted,
                    code=said.code,
                    sentence=said.sentence,
                    have=pending.have if pending else need if said.accepted else 0,
                    need=need,
                    expires=pending.expires if pending else None,
                )
            )
            what = "accepts" if said.accepted else f"refuses: {said.sentence} [{said.code}]"
            if pending:
                what = f"waits for approvals ({pending.have} of {pending.need}) until {pending.expires}"
            session.add(_Line(run=run, time=_now(), text=f"{site} {what}"))

    def state(self, run: str) -> RunState:
        """Return where a run is. Raises RunFailed (``run.unknown``)."""
        with Session(self._engine) as session:
            return RunState(_get(session, run).state)

    def awaited(self, run: str) -> dict[str, Admission]:
        """Return what the sites of a waiting run last said: those that accept or wait, by name."""
        with Session(self._engine) as session:
            rows = session.scalars(select(_Participant).where(_Participant.run == run)).all()
            return {
                row.site: Admission(
                    run=run,
                    site=row.site,
                    accepted=row.accepted,
                    code=row.code,
                    sentence=row.sentence,
                    pending=Pending(have=row.have, need=row.need, expires=row.expires)
                    if row.expires
                    else None,
                )
                for row in rows
                if row.accepted or row.expires
            }

    def awaiting(self) -> dict[str, list[str]]:
        """Return the runs that wait for approvals, each with its invited sites."""
        with Session(self._engine) as session:
            rows = session.scalars(select(_Run).where(_Run.state == RunState.AWAITING_APPROVAL)).all()
            return {row.id: json.loads(row.invited) for row in rows}

    def begin_round(self, run: str, number: int, manifest: str) -> None:
        """Record that a round's manifest was made; that of another attempt takes its place."""
        with Session(self._engine) as session, session.begin():
            session.merge(
                _Round(
                    run=run, number=number, manifest=manifest, started=_now(), ended=None, state_digest=None
                )
            )

    def end_round(self, run: str, number: int, state_digest: str) -> None:
        """Record the state that a round led to."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(_Round, (run, number))
            row.ended, row.state_digest = _now(), state_digest

    def interrupt_unfinished(self) -> list[str]:
        """Mark every unfinished run INTERRUPTED (a coordinator is starting) and return their ids.

        A run that waits for approvals stays as it is: see :meth:`awaiting`.
        """
        with Session(self._engine) as session:
            going_on = [*FINAL, RunState.AWAITING_APPROVAL]
            left = session.scalars(select(_Run.id).where(_Run.state.not_in(going_on))).all()
        for run in left:
            self.move(run, RunState.INTERRUPTED, text="the coordinator ended before the run did")
        return list(left)

    def document(self, run: str) -> tuple[dict[str, Any], str, list[str]]:
        """Return a run's document, its digest and the invited sites."""
        with Session(self._engine) as session:
            row = _get(session, run)
            return _document(row), row.digest, json.loads(row.invited)

    def asked(self, run: str) -> tuple[Signed, Envelope]:
        """Return the request that a run comes from, and the project that it belongs to, as signed."""
        with Session(self._engine) as session:
            row = _get(session, run)
            return parse_signed(row.request.encode()), parse_envelope(row.envelope.encode())

    def project(self, run: str) -> Project:
        """Return the project that a run belongs to. Raises RunFailed (``run.unknown``)."""
        return self.asked(run)[1].open(Project)

    def all(self, projects: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Return a summary of every run, newest first; with *projects*, of theirs alone (digests)."""
        wanted = select(_Run).order_by(_Run.created.desc())
        with Session(self._engine) as session:
            rows = session.scalars(
                wanted if projects is None else wanted.where(_Run.project.in_(projects))
            ).all()
            asked: dict[str, list[_Participant]] = {}
            for site in session.scalars(select(_Participant).where(_Participant.need > 0)):
                asked.setdefault(site.run, []).append(site)
            return [{**_summary(row), "approvals": _approvals(asked.get(row.id, []))} for row in rows]

    def show(self, run: str) -> dict[str, Any]:
        """Return all that is known of a run. Raises RunFailed (``run.unknown``)."""
        with Session(self._engine) as session:
            row = _get(session, run)
            rounds = session.scalars(select(_Round).where(_Round.run == run).order_by(_Round.number)).all()
            sites = session.scalars(select(_Participant).where(_Participant.run == run)).all()
            return {
                **_summary(row),
                "approvals": _approvals(sites),
                "document": _document(row),
                "result": json.loads(row.result) if row.result else None,
                "sites": {
                    p.site: {
                        "accepted": p.accepted,
                        "code": p.code,
                        "sentence": p.sentence,
                        "approvals": _approvals([p]),
                    }
                    for p in sorted(sites, key=lambda p: p.site)
                },
                "rounds_done": sum(r.ended is not None for r in rounds),
                "round_log": [
                    {
                        "round": r.number,
                        "manifest": r.manifest,
                        "started": f"{r.started.isoformat()}Z",
                        "ended": f"{r.ended.isoformat()}Z" if r.ended else None,
                        "state": r.state_digest,
                    }
                    for r in rounds
                ],
            }

    def log(self, run: str, after: int = 0) -> list[dict[str, Any]]:
        """Return the log lines of a run numbered above *after*."""
        with Session(self._engine) as session:
            _get(session, run)
            lines = session.scalars(
                select(_Line).where(_Line.run == run, _Line.seq > after).order_by(_Line.seq)
            ).all()
            return [
                {"seq": line.seq, "time": f"{line.time.isoformat()}Z", "text": line.text} for line in lines
            ]


def _get(session: Session, run: str) -> _Run:
    row = session.get(_Run, run)
    if row is None:
        raise RunFailed("run.unknown", f"there is no run {run!r}.", "'plasmid runs ls' lists them.")
    return row


def _document(row: _Run) -> dict[str, Any]:
    return dict(json.loads(row.request)["payload"]["document"])


def _approvals(sites: Iterable[_Participant]) -> dict[str, int] | None:
    """Return how many approvals are there and needed over *sites*, None where none are needed."""
    wanted = [site for site in sites if site.need]
    if not wanted:
        return None
    return {"have": sum(site.have for site in wanted), "need": sum(site.need for site in wanted)}


def _summary(row: _Run) -> dict[str, Any]:
    project = parse_envelope(row.envelope.encode()).open(Project)
    return {
        "run_id": row.id,
        "name": row.name,
        "computation": row.computation,
        "digest": row.digest,
        "state": row.state,
        "rounds": row.rounds,
        "requester": row.requester,
        "project": {"name": project.name, "digest": row.project, "purpose": project.purpose},
        "error": json.loads(row.error) if row.error else None,
        "created": f"{row.created.isoformat()}Z",
        "updated": f"{row.updated.isoformat()}Z",
    }


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
