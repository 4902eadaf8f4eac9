"""Signed HTTP requests and answers, for connections whose TLS ends at somebody else's proxy.

HTTP Message Signatures (RFC 9421) over Ed25519 (section 3.3.6), with the body's digest of RFC 9530.

Rules
-----
1. A request's signature covers ``@method``, ``@path``, ``@query`` and ``content-digest``; an answer's covers
   ``@status``, ``content-digest`` and the signature of its request. What a proxy may rewrite is left out.
2. There is one label, one algorithm and one spelling: what is not exactly as written here is no signature.
3. ``keyid`` is the signer's raw public key in hexadecimal; ``tag`` names the coordinator's, so that a request
   to one coordinator is none to another.
4. A request is fresh for ``MAX_SKEW_S`` around ``created``; within it a nonce serves once, which is the
   receiver's to see to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plasmid.core.errors import LinkError, ProtocolError
from plasmid.protocol.identity import Signer, verify

MAX_SKEW_S = 60
INPUT, SIGNATURE, DIGEST = "Signature-Input", "Signature", "Content-Digest"

_REQUEST = ('"@method"', '"@path"', '"@query"', '"content-digest"')
_ANSWER = ('"@status"', '"content-digest"', '"signature";req;key="plasmid"')
_HEX32, _HEX64 = "[0-9a-f]{32}", "[0-9a-f]{64}"
_REQUEST_INPUT = re.compile(
    rf'plasmid=\({" ".join(_REQUEST)}\);created=([0-9]{{1,12}});nonce="({_HEX32})";keyid="({_HEX64})"'
    rf';alg="ed25519";tag="plasmid-link/1:({_HEX64})"'
)
_ANSWER_INPUT = re.compile(
    rf'plasmid=\({" ".join(_ANSWER)}\);created=([0-9]{{1,12}});keyid="({_HEX64})";alg="ed25519"'
)
_VALUE = re.compile(r"plasmid=(:[A-Za-z0-9+/]{86}==:)")
_DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:")


def signature_base(components: Sequence[tuple[str, str]], parameters: str) -> bytes:
    """Return what a signature covers (RFC 9421, section 2.5).

    Parameters
    ----------
    components
        (identifier, value) in order, the identifier serialised: ``'"@method"'``.
    parameters
        The serialised parameters of the signature: ``';created=1618884473;keyid="..."'``.
    """
    covered = " ".join(name for name, _ in components)
    lines = [f"{name}: {value}" for name, value in components]
    return "\n".join([*lines, f'"@signature-params": ({covered}){parameters}']).encode("latin-1")


def content_digest(body: bytes) -> str:
    """Return the ``Content-Digest`` of *body*: SHA-256."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


@dataclass(frozen=True)
class SignedRequest:
    """The signature that a request carries; :meth:`check` says whether it holds.

    Attributes
    ----------
    created
        Seconds since 1970, by the signer's clock.
    digest
        The ``Content-Digest`` that it covers.
    value
        The signature, serialised: what an answer covers.
    """

    created: int
    nonce: str
    keyid: str
    coordinator: str
    digest: str
    value: str

    def check(self, *, method: str, path: str, query: str, coordinator: str, now_s: float) -> None:
        """Check everything but the nonce and the body.

        Parameters
        ----------
        path, query
            As sent, still percent-encoded; *query* without its question mark.
        coordinator
            The receiver's own key.

        Raises
        ------
        LinkError
            ``link.signature``; ``link.clock``: created more than ``MAX_SKEW_S`` from *now_s*.
        """
        if self.coordinator != coordinator:
            raise _refusal("it is for another coordinator")
        values = zip(_REQUEST, (method, path, f"?{query}", self.digest), strict=True)
        parameters = _request_parameters(self.created, self.nonce, self.keyid, coordinator)
        _verify(self.keyid, signature_base(list(values), parameters), self.value)
        if abs(now_s - self.created) > MAX_SKEW_S:
            raise LinkError(
                "link.clock",
                f"the request was signed {now_s - self.created:.0f} s before the coordinator's time; "
                f"{MAX_SKEW_S} s are taken.",
                "Set this host's clock.",
            )


def sign_request(
    signer: Signer,
    *,
    method: str,
    path: str,
    query: str,
    body: bytes,
    coordinator: str,
    created: int,
    nonce: str,
) -> dict[str, str]:
    """Return the headers by which *signer* signs a request to *coordinator* (its public key)."""
    digest = content_digest(body)
    values = zip(_REQUEST, (method, path, f"?{query}", digest), strict=True)
    parameters = _request_parameters(created, nonce, signer.public, coordinator)
    return {
        DIGEST: digest,
        INPUT: f"plasmid=({' '.join(_REQUEST)}){parameters}",
        SIGNATURE: f"plasmid={_serialised(signer.sign(signature_base(list(values), parameters)))}",
    }


def read_request(headers: Mapping[str, str]) -> SignedRequest | None:
    """Return the signature in *headers* (names in lower case), None where there is none.

    Raises
    ------
    LinkError
        ``link.signature``: a header of it is there, and not as this release writes it.
    """
    given, signature, digest = (headers.get(name.lower()) for name in (INPUT, SIGNATURE, DIGEST))
    if given is None and signature is None:
        return None
    said, value = _REQUEST_INPUT.fullmatch(given or ""), _VALUE.fullmatch(signature or "")
    if said is None or value is None or not _DIGEST.fullmatch(digest or ""):
        raise _refusal("it is not in the form that this release writes")
    created, nonce, keyid, coordinator = said.groups()
    return SignedRequest(int(created), nonce, keyid, coordinator, digest or "", value[1])


def sign_answer(signer: Signer, *, status: int, body: bytes, request: str, created: int) -> dict[str, str]:
    """Return the headers by which *signer* signs an answer to the request with the signature *request*."""
    digest = content_digest(body)
    values = zip(_ANSWER, (str(status), digest, request), strict=True)
    parameters = _answer_parameters(created, signer.public)
    return {
        DIGEST: digest,
        INPUT: f"plasmid=({' '.join(_ANSWER)}){parameters}",
        SIGNATURE: f"plasmid={_serialised(signer.sign(signature_base(list(values), parameters)))}",
    }


def check_answer(
    headers: Mapping[str, str], *, status: int, body: bytes, request: str, coordinator: str
) -> None:
    """Check that *coordinator* gave this answer to the request whose ``Signature`` header is *request*.

    Raises
    ------
    LinkError
        ``link.signature``: it is not signed, or not so; somebody in between answered or changed it.
    """
    said = _ANSWER_INPUT.fullmatch(headers.get(INPUT.lower(), ""))
    value = _VALUE.fullmatch(headers.get(SIGNATURE.lower(), ""))
    asked = _VALUE.fullmatch(request)
    if said is None or value is None or asked is None or said[2] != coordinator:
        raise _refusal("the answer is not signed by the coordinator")
    values = zip(_ANSWER, (str(status), content_digest(body), asked[1]), strict=True)
    _verify(
        coordinator, signature_base(list(values), _answer_parameters(int(said[1]), coordinator)), value[1]
    )


def _request_parameters(created: int, nonce: str, keyid: str, coordinator: str) -> str:
    return (
        f';created={created};nonce="{nonce}";keyid="{keyid}";alg="ed25519";tag="plasmid-link/1:{coordinator}"'
    )


def _answer_parameters(created: int, keyid: str) -> str:
    return f';created={created};keyid="{keyid}";alg="ed25519"'


def _serialised(signature: str) -> str:
    return f":{base64.b64encode(bytes.fromhex(signature)).decode()}:"


def _verify(public: str, base: bytes, value: str) -> None:
    try:
        verify(public, base, base64.b64decode(value.strip(":"), validate=True).hex())
    except (ProtocolError, binascii.Error) as error:
        raise _refusal("it is not the signer's over this") from error


def _refusal(what: str) -> LinkError:
    return LinkError(
        "link.signature",
        f"a signature of the connection does not hold: {what}.",
        "If a proxy is in between, it may change what it relays: ask who runs it.",
    )
