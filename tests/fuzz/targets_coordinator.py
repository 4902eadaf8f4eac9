"""What the coordinator makes of newcomers with an invitation, and of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import create_engine, delete, update
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from fuzz.registry import ALPHA, COORDINATOR, json_object, maker, new_loop, scratch, signed_anew
from fuzz.runner import Target
from plasmid.core.canonical import canonical_json, sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.link.authority import Authority
from plasmid.link.bodies import Bodies
from plasmid.link.membership import Membership
from plasmid.link.projects import ProjectRegistry
from plasmid.link.registry import Registry
from plasmid.link.routes import build_app
from plasmid.link.switchboard import Switchboard
from plasmid.link.tables import CertificateRow, InvitationRow, MemberRow
from plasmid.protocol.enrolment import new_tls_key, parse_enrol_request, signed_card, signed_request
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Heartbeat, RunRequest, StopRequest, sign
from plasmid.secagg.samples import body_root
from support.federation.in_memory import project_of, signed_by


@dataclass
class Coordinator:
    """What a link server is made of, with its database in memory."""

    registry: Registry
    authority: Authority
    projects: ProjectRegistry

    @classmethod
    def new(cls) -> Coordinator:
        """Return one without members."""
        folder = scratch() / "coordinator"
        folder.mkdir(exist_ok=True)
        engine = create_engine(
            "sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool
        )  # one connection, which all sessions share
        authority = Authority(folder) if (folder / "ca.key").exists() else Authority.create(folder)
        return cls(Registry(engine), authority, ProjectRegistry(engine))


# -- newcomers -------------------------------------------------------------------------------------


@maker
def _invitation() -> Iterator[Target]:
    there = Coordinator.new()
    engine = there.registry._engine
    secret = there.registry.invite(name="alpha", role="site", organisation="A")
    _, csr = new_tls_key("alpha", b"password")
    request = signed_request(ALPHA, invitation=secret, role="site", organisation="A", csr=csr)

    def again() -> None:
        with Session(engine) as session, session.begin():
            for row in (CertificateRow, MemberRow):
                session.execute(delete(row))
            session.execute(update(InvitationRow).values(used=None))

    def run(data: bytes) -> None:
        wanted = parse_enrol_request(data).model_copy(update={"key": ALPHA.public})
        signature = ALPHA.sign(wanted.signed_bytes())
        try:
            there.registry.enrol(wanted.model_copy(update={"signature": signature}), there.authority)
        finally:
            again()

    yield Target("invitation", [request.model_dump_json().encode()], run, cost=20)


# -- requests --------------------------------------------------------------------------------------


class _Impatient(Switchboard):
    async def receive(self, site: str, boot: str, after: int, wait_s: float) -> Any:
        """Answer at once."""
        assert 0 <= wait_s <= 30
        return await super().receive(site, boot, after, 0.0)


_SUM = "a1" * 32
"""The manifest of a sum that was opened."""


class Routes:
    """The coordinator's application, called as a server would; *alpha* is a site, *ada* a person.

    Attributes
    ----------
    certificates
        DER by member.
    """

    def __init__(self) -> None:
        there = Coordinator.new()
        self.identities = {"alpha": ALPHA, "ada": Identity.generate("ada")}
        self.certificates = {}
        for name, role, organisation in (("alpha", "site", "A"), ("ada", "person", "lab")):
            secret = there.registry.invite(name=name, role=role, organisation=organisation)
            _, csr = new_tls_key(name, b"password")
            wanted: Any = {"invitation": secret, "role": role, "organisation": organisation, "csr": csr}
            pem = there.registry.enrol(signed_request(self.identities[name], **wanted), there.authority)
            self.certificates[name] = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
        switchboard, bodies = _Impatient(), Bodies(scratch() / "route-bodies")
        switchboard.open_run("run-1", ["alpha"])
        bodies.expect("run-1", 5)
        root = body_root(b"12345")
        bodies.take_chunk("run-1", "alpha", root, 0, 5, b"12345", root)
        bodies.keep("run-1", _SUM, {"alpha": bodies.received("run-1", "alpha", root)}, bytes(32))
        self.app = build_app(
            identity=COORDINATOR,
            membership=Membership(there.registry, there.authority, switchboard, COORDINATOR, self._ask),
            card=signed_card(COORDINATOR, there.authority.pem),
            registry=there.registry,
            projects=there.projects,
            authority=there.authority,
            switchboard=switchboard,
            bodies=bodies,
            ask=self._ask,
        )
        self._loop = new_loop()

    async def _ask(self, method: str, *_: Any) -> dict[str, Any]:
        return {"answered": method}

    def answer(self, said: Mapping[str, Any]) -> tuple[int, bytes]:
        """Return status and body of the answer to a request of the form that :func:`_requests` yields."""
        body = said["body"]
        body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else canonical_json(body)
        raw_path = said["path"].encode("utf-8", "replace")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": said["method"],
            "scheme": "https",
            "path": unquote(raw_path.decode(), errors="replace"),
            "raw_path": raw_path,
            "root_path": "",
            "query_string": said["query"].encode("utf-8", "replace"),
            "headers": [
                (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                for name, value in said["headers"].items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {"peer_certificate": self.certificates.get(said["who"])},
        }
        return self._loop.run_until_complete(self._answered(scope, body))

    async def _answered(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        status, parts = 0, []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return status, b"".join(parts)


def _requests(routes: Routes) -> Iterator[dict[str, Any]]:
    site, person = routes.identities.values()
    beat = sign(site, Heartbeat(run="run-1", site="alpha", round=1, step=2, steps=6))
    wanted = RunRequest(
        document={"computation": "ping"},
        digest="0" * 64,
        project="0" * 64,
        requested="2026-11-25T10:00:00Z",
        nonce="0" * 32,
    )
    launch, stop = sign(person, wanted), sign(person, StopRequest(run="run-1"))
    project = project_of({"alpha": site}, {"alpha": "A"}, person)
    envelope = signed_by(project, {"alpha": site})
    digest = sha256_hex(b"12345")
    root = body_root(b"12345")
    chunk, rooted = {"x-chunk-digest": digest}, {"x-chunk-digest": root}
    upload = f"run=run-1&offset=0&total={5}"
    for who, method, path, query, body, headers in (
        ("", "GET", "/v1/card", "", "", {}),
        ("alpha", "GET", "/v1/roster", "", "", {}),
        ("alpha", "GET", "/v1/site/messages", "boot=a&after=3&wait_s=0.5", "", {}),
        ("alpha", "POST", "/v1/site/messages", "", beat.model_dump(mode="json"), {}),
        ("alpha", "PUT", f"/v1/site/bodies/{root}", upload, "12345", rooted),
        ("alpha", "GET", f"/v1/site/sums/run-1/{_SUM}/opening", "", "", {}),
        ("alpha", "GET", f"/v1/site/sums/run-1/{_SUM}/0", "offset=2", "", {}),
        ("ada", "PUT", f"/v1/given/{digest}", upload, "12345", chunk),
        ("alpha", "GET", "/v1/members/ada", "", "", {}),
        ("ada", "POST", "/v1/projects", "", envelope.model_dump(mode="json"), {}),
        ("ada", "GET", "/v1/projects", "", "", {}),
        ("ada", "POST", "/v1/plan", "", launch.model_dump(mode="json"), {}),
        ("ada", "POST", "/v1/runs", "", launch.model_dump(mode="json"), {"content-length": "77"}),
        ("ada", "GET", "/v1/runs/run-1/log", "after=7", "", {}),
        ("ada", "POST", "/v1/runs/run-1/stop", "", stop.model_dump(mode="json"), {}),
    ):
        told = (("who", who), ("method", method), ("path", path), ("query", query), ("body", body))
        yield dict(told) | {"headers": headers}


@maker
def _routes() -> Iterator[Target]:
    routes = Routes()
    like = {"who": "", "method": "", "path": "", "query": ""}

    def run(data: bytes) -> None:
        said = json_object(data)
        headers = said.get("headers")
        if (
            any(type(said.get(name)) is not str for name in like)
            or not isinstance(headers, dict)
            or any(not isinstance(value, str) for value in headers.values())
        ):
            raise ProtocolError("protocol.malformed", "no request of a server has this form")
        said["body"] = signed_anew(said.get("body"), routes.identities)
        status, answer = routes.answer(said)
        assert 200 <= status < 500, status
        if status >= 400:
            error = json.loads(answer)
            raise ProtocolError(error["error"]["code"] if "error" in error else f"http.{status}", "refused")

    yield Target("coordinator's routes", [canonical_json(said) for said in _requests(routes)], run, cost=10)
