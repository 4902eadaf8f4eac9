"""What comes over the link: enrolment, answers, chunks, and the headers of signed requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fuzz.instances import instance
from fuzz.registry import ALPHA, COORDINATOR, json_object, maker, scratch
from fuzz.runner import Target
from fuzz.targets_messages import message_types
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import PlasmidError, ProtocolError
from plasmid.link.authority import Authority
from plasmid.link.bodies import Bodies
from plasmid.link.certificates import tls_request
from plasmid.protocol import messages
from plasmid.protocol.enrolment import (
    new_tls_key,
    parse_card,
    parse_enrol_request,
    signed_card,
    signed_request,
)
from plasmid.protocol.http_signatures import check_answer, read_request, sign_answer, sign_request
from plasmid.secagg.samples import body_root
from plasmid.uplink.enrol import keep_certificate, roster_in
from plasmid.uplink.link import answered_error, issued_by, json_in, messages_in


@maker
def _enrolment() -> Iterator[Target]:
    _, csr = new_tls_key("alpha", b"password")
    card = signed_card(COORDINATOR, "-----BEGIN CERTIFICATE-----\n")
    request = signed_request(ALPHA, invitation="secret", role="site", organisation="A", csr=csr)

    def enrol(data: bytes) -> None:
        wanted = parse_enrol_request(data)
        signed = wanted.model_copy(update={"key": ALPHA.public})
        signed.model_copy(update={"signature": ALPHA.sign(signed.signed_bytes())}).check()
        tls_request(wanted.csr)

    roster = {"sites": [{"name": "alpha", "organisation": "A", "key": ALPHA.public}], "online": ["alpha"]}
    yield Target("enrolment request", [request.model_dump_json().encode()], enrol)
    yield Target(
        "coordinator's card", [card.model_dump_json().encode()], lambda data: parse_card(data).check()
    )
    yield Target(
        "certificate request",
        [csr.encode()],
        lambda data: tls_request(data.decode("utf-8", "replace")),
        structured=False,
    )
    yield Target("roster", [canonical_json(roster)], roster_in)


@maker
def _certificates() -> Iterator[Target]:
    """What a coordinator answers to a newcomer, and what whoever ends TLS shows."""
    folder = scratch() / "certificates"
    folder.mkdir(exist_ok=True)
    authority = Authority.create(folder)
    key, csr = new_tls_key("alpha", b"password")
    leaf = authority.issue_client(tls_request(csr), name="alpha", role="site", organisation="A")
    ca = x509.load_pem_x509_certificate(authority.pem.encode())
    answer = {"certificate": leaf.public_bytes(Encoding.PEM).decode()}

    def shown(data: bytes) -> None:
        if not issued_by(data, ca):
            raise ProtocolError("protocol.signature", "somebody else's")

    yield Target(
        "certificate answered",
        [canonical_json(answer)],
        lambda data: keep_certificate(folder, json_in(data), key, csr),
        cost=4,
    )
    yield Target("certificate shown", [leaf.public_bytes(Encoding.DER)], shown, structured=False)


# -- the link --------------------------------------------------------------------------------------


@maker
def _link() -> Iterator[Target]:
    kinds = message_types()
    said = [messages.sign(COORDINATOR, instance(kind, Random(1))).model_dump(mode="json") for kind in kinds]
    polls = [
        canonical_json(
            {"boot": "0123", "messages": [{"seq": index, "signed": one} for index, one in enumerate(part)]}
        )
        for part in (said[:3], said[3:9], [])
    ]
    errors = [b'{"error":{"code":"link.refused","message":"no","hint":""}}']

    def error(data: bytes) -> None:
        raise answered_error(httpx.Response(409, content=data))

    yield Target("poll", polls, messages_in)
    yield Target("error answer", errors, _expecting(error))


def _expecting(run: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Return *run*, of which a known error is all that can come."""

    def expected(data: bytes) -> None:
        try:
            run(data)
        except PlasmidError as error:
            str(error)

    return expected


@maker
def _chunk() -> Iterator[Target]:
    chunk = b"masked words"
    bodies = Bodies(scratch() / "bodies")
    bodies.expect("run-1", len(chunk))
    seed = {
        "run": "run-1",
        "site": "alpha",
        "digest": body_root(chunk),
        "offset": 0,
        "total": len(chunk),
        "chunk": chunk.decode(),
        "sha256": body_root(chunk),
    }

    def run(data: bytes) -> None:
        values = json_object(data)
        if set(values) != set(seed) or not _typed_like(values, seed):
            raise ProtocolError("protocol.malformed", "the route's parameters are typed")
        text = str(values.pop("chunk")).encode("utf-8", "surrogatepass")
        bodies.take_chunk(**values, chunk=text)
        bodies.read_chunk(str(values["digest"]), abs(int(values["offset"])) % 2**31)

    yield Target("chunk", [canonical_json(seed)], _expecting_no_body(run), cost=4)


def _typed_like(values: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    return all(type(values[name]) is type(value) for name, value in like.items())


def _expecting_no_body(run: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Return *run*; what was received is served to nobody, so that reading it is refused at its end."""

    def expected(data: bytes) -> None:
        try:
            run(data)
        except PlasmidError as error:
            if error.code != "link.no_body":
                raise

    return expected


@maker
def _http() -> Iterator[Target]:
    headers = sign_request(
        ALPHA,
        method="GET",
        path="/v1/roster",
        query="a=b",
        body=b"",
        coordinator=COORDINATOR.public,
        created=1_764_064_800,
        nonce="0" * 32,
    )
    asked = headers["Signature"].removeprefix("plasmid=")
    answer = sign_answer(COORDINATOR, status=200, body=b"{}", request=asked, created=1_764_064_800)

    def request(data: bytes) -> None:
        signed = read_request(_texts(data))
        if signed is not None:
            signed.check(
                method="GET",
                path="/v1/roster",
                query="a=b",
                coordinator=COORDINATOR.public,
                now_s=1_764_064_800.0,
            )

    def response(data: bytes) -> None:
        check_answer(
            _texts(data), status=200, body=b"{}", request=headers["Signature"], coordinator=COORDINATOR.public
        )

    yield Target("signed request's headers", [_lower(headers)], request)
    yield Target("signed answer's headers", [_lower(answer)], response)


def _lower(headers: Mapping[str, str]) -> bytes:
    return canonical_json({name.lower(): value for name, value in headers.items()})


def _texts(data: bytes) -> dict[str, str]:
    """Return headers: texts by name, as a server has them."""
    return {name: value for name, value in json_object(data).items() if isinstance(value, str)}
