"""The signed messages of the link.

Rules
-----
1. A message is a strict model. Unknown, missing or oddly typed fields are refused before anything is
   done with it.
2. What is signed is ``b"plasmid-message/1\\n" + canonical JSON``; the receiver re-encodes what it parsed
   and checks the signature over that, so there is one byte string per meaning.
3. Statements of one site that others must check (:mod:`plasmid.secagg.statements`) are signed by their
   author and relayed whole; the coordinator cannot alter or invent one.
4. A message names its run, and its epoch and slot where it has them: (type, run, epoch, slot, site)
   identifies it, and sending it again changes nothing.
5. What a site says about a failure is a code and a sentence fixed in the source, never text made from
   its data.
6. A run is what one person asked for: ``ask`` and ``admit`` carry the signed request whole, with the signed
   project that it belongs to, and the run's id is made from the request (:func:`run_id`). One request is
   one run for ever.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from plasmid.core.bounds import parse_json
from plasmid.core.canonical import canonical_json, digest_json, sha256_hex
from plasmid.core.clock import Stamp
from plasmid.core.errors import ProtocolError
from plasmid.protocol.checkpoint import MAX_NOTE_BYTES, MAX_SIZE
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import NamedSigner, verify
from plasmid.secagg.ring import Encoding
from plasmid.secagg.statements import (
    MAX_SLOTS,
    Advert,
    Base64Bytes,
    Bundle,
    Consent,
    Contribution,
    Digest,
    Ready,
    Recovery,
    RunId,
    Shares,
    SiteName,
    Tag,
)

_PREFIX = b"plasmid-message/1\n"

Whole = Annotated[int, Field(gt=-(2**53), lt=2**53)]
"""What canonical JSON writes exactly; what a statement says has narrower bounds of its own."""
Code = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z_]+$", max_length=64)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Signed(_Message):
    """A message with its author's signature.

    ``payload`` is the message as JSON values; :func:`open_signed` returns it as its own type.
    """

    payload: dict[str, Any]
    signer: str
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class Ask(_Message):
    """Coordinator to site: would you admit this request? Nothing starts; ``run`` names the question alone.

    Attributes
    ----------
    request
        A person's :class:`RunRequest`; document and digest are in it.
    project
        The :class:`~plasmid.protocol.project.Project` that it names, signed by every member.
    """

    type: Literal["ask"] = "ask"
    run: RunId
    request: Signed
    project: Envelope


class Admit(_Message):
    """Coordinator to site: admit this run. The worker starts to warm up on yes.

    ``run`` is :func:`run_id` of the request; ``request`` and ``project`` are as in :class:`Ask`.
    """

    type: Literal["admit"] = "admit"
    run: RunId
    request: Signed
    project: Envelope


class UnitTerms(_Message):
    """What a site's own figures make of the document's epsilon. All of it is public.

    Attributes
    ----------
    public_size
        N, the rounded number of units that the owner declares; None for ``unit: site``.
    rate
        q, the chance of a unit to be in one Poisson sample.
    noise_multiplier
        sigma of ``dp-sgd``; None where the noise is shared.
    attempts
        The attempts at a round that the site's ledger has reserved.
    """

    public_size: Whole | None
    rate: float
    noise_multiplier: float | None
    attempts: Whole


class Pending(_Message):
    """How far a site's approvals have come: its run waits, until ``expires`` (None where only asked)."""

    have: Annotated[int, Field(ge=0, le=4096)]
    need: Annotated[int, Field(ge=1, le=4096)]
    expires: Stamp | None


class Admission(_Message):
    """Site to coordinator: the answer to ``ask`` or ``admit``.

    With ``pending`` it is not accepted yet: people at the site are to approve it. The site answers again when
    they have, and when they have not in time.
    """

    type: Literal["admission"] = "admission"
    run: RunId
    site: SiteName
    accepted: bool
    code: Code | Literal[""] = ""
    sentence: Annotated[str, Field(max_length=400)] = ""
    terms: UnitTerms | None = None
    pending: Pending | None = None


class Planned(_Message):
    """What the first epoch of a run fixes for all of it: its number of sites, its c, and the largest sampling
    rate of all sites, for which shared noise is sized."""

    sites: Annotated[int, Field(ge=1, le=64)]
    c: Annotated[int, Field(ge=0, le=64)]
    noise_rate: Annotated[float, Field(ge=0, le=1)]


class Total(_Message):
    """A sum as it was opened, published as the body ``total`` (its words, tail included).

    Attributes
    ----------
    digest, size
        Of the body.
    survivors
        Over which sites it is, in order.
    tag
        The sum of their tags (:mod:`plasmid.secagg.tags`); None where nothing is masked.
    """

    digest: Digest
    size: Whole
    survivors: Annotated[list[SiteName], Field(min_length=1, max_length=64)]
    tag: Tag | None


class Start(_Message):
    """The public state with which a round begins, and the sum from which it follows (None in round 1)."""

    round: Whole
    state: Digest
    state_bytes: Whole
    total: Total | None


class Epoch(_Message):
    """Coordinator to site: the roster, slots and collusion bound of a key epoch of the run.

    ``begins`` is the state of its first round; it may be None before round 1.
    """

    type: Literal["epoch"] = "epoch"
    run: RunId
    epoch: Whole
    roster: Annotated[list[SiteName], Field(min_length=1, max_length=64)]
    slots: Whole
    c: Whole
    planned: Planned
    begins: Start | None = None


RelayKind = Literal["advert", "bundle", "recovery", "ready", "contribution", "consent"]


class Relay(_Message):
    """Coordinator to site: sites' signed statements of one kind, in one epoch; ``slot`` 0 during set-up."""

    type: Literal["relay"] = "relay"
    run: RunId
    epoch: Whole
    slot: Whole = 0
    kind: RelayKind
    statements: Annotated[list[Signed], Field(max_length=64)]


class Bundles(_Message):
    """Site to coordinator: its signed bundles, one for each other site of the roster."""

    type: Literal["bundles"] = "bundles"
    run: RunId
    site: SiteName
    epoch: Whole
    statements: Annotated[list[Signed], Field(max_length=64)]


class Blobs(_Message):
    """Site to coordinator: its signed recovery statement, and the sealed blobs that it commits to."""

    type: Literal["blobs"] = "blobs"
    run: RunId
    site: SiteName
    epoch: Whole
    statement: Signed
    sealed: Annotated[list[Annotated[bytes, Base64Bytes(16, 16 + 64 * 32)]], Field(max_length=MAX_SLOTS)]


class Manifest(_Message):
    """Coordinator to site: the description of one attempt at a round; its digest H enters every mask.

    Attributes
    ----------
    phase
        ``train`` sums what the computation says; ``audit`` sums (guesses, right) of the canary audit.
    epoch, slot
        Which slot of which key epoch masks the attempt; a slot serves one attempt.
    rho
        Digest of the epoch's adverts; None where nothing is masked.
    state
        Digest of the body of ``state_bytes`` that holds the public state.
    base
        Digest of the base model; None for a computation without one.
    length, bound, scale_log2, ring_bits, noise_variance
        The :class:`~plasmid.secagg.ring.Encoding`; ``length`` counts the padding of a rotation.
    min_sites, theta
        The smallest survivor set m, and the threshold of the shares (0 where nothing is masked).
    total
        The sum of the round before, from which the state follows; None before the first round.
    """

    type: Literal["manifest"] = "manifest"
    protocol: Literal["plasmid-sa/2", "none"]
    run: RunId
    phase: Literal["train", "audit"]
    epoch: Whole
    slot: Whole
    round: Whole
    rho: Digest | None
    document: Digest
    base: Digest | None
    state: Digest
    state_bytes: Whole
    invited: Annotated[list[SiteName], Field(min_length=1, max_length=64)]
    ring_bits: Literal[32, 64]
    scale_log2: Whole
    bound: float
    length: Whole
    mechanism: Literal["none", "dp-sgd", "dp-fedsgd", "output"]
    noise_variance: float
    min_sites: Whole
    theta: Whole
    total: Total | None

    def encoding(self) -> Encoding:
        """Return how this attempt's vectors are written."""
        return Encoding(
            bits=self.ring_bits,
            scale_log2=self.scale_log2,
            bound=self.bound,
            length=self.length,
            noise_variance=self.noise_variance,
        )

    def begins(self) -> Start:
        """Return the state with which the round begins."""
        return Start(round=self.round, state=self.state, state_bytes=self.state_bytes, total=self.total)

    def digest(self) -> str:
        """Return H, the SHA-256 of the canonical manifest."""
        return digest_json(self.model_dump(mode="json"))


class Heartbeat(_Message):
    """Site to coordinator: alive, and how far the round is (a count of steps, nothing else)."""

    type: Literal["heartbeat"] = "heartbeat"
    run: RunId
    site: SiteName
    round: Whole
    step: Whole
    steps: Whole


class LogCheckpoint(_Message):
    """Site to site, passed on by the coordinator: the newest checkpoint of my audit log; please cosign it.

    Attributes
    ----------
    note
        The checkpoint as a signed note (:mod:`plasmid.protocol.checkpoint`).
    old, proof
        The size that the receiver cosigned last as far as the sender knows, 0 for none, and the consistency
        proof from there.
    """

    type: Literal["log_checkpoint"] = "log_checkpoint"
    site: SiteName
    receiver: SiteName
    note: Annotated[str, Field(max_length=MAX_NOTE_BYTES)]
    old: Annotated[int, Field(ge=0, le=MAX_SIZE)]
    proof: Annotated[list[Digest], Field(max_length=64)]


class LogCosignature(_Message):
    """Site to site, passed on by the coordinator: the answer to a :class:`LogCheckpoint`.

    Attributes
    ----------
    origin, size
        Of the checkpoint that this answers.
    line
        The cosignature's line; empty if it was refused.
    held
        Where it was refused: the note that the answering site holds of this log, empty if none.
    """

    type: Literal["log_cosignature"] = "log_cosignature"
    site: SiteName
    receiver: SiteName
    origin: Annotated[str, StringConstraints(max_length=200)]
    size: Annotated[int, Field(ge=0, le=MAX_SIZE)]
    line: Annotated[str, StringConstraints(max_length=1000)] = ""
    held: Annotated[str, StringConstraints(max_length=MAX_NOTE_BYTES)] = ""


class Failed(_Message):
    """Site to coordinator: this site cannot go on with the run."""

    type: Literal["failed"] = "failed"
    run: RunId
    site: SiteName
    code: Code
    sentence: Annotated[str, Field(max_length=400)]


class Conclude(_Message):
    """Coordinator to site, after the last round: please countersign what the run came to.

    Attributes
    ----------
    result
        The coordinator's signed :class:`~plasmid.release.attestation.Result`.
    rounds_bytes
        Size of the body with the run's history, whose digest is among the result's files.
    """

    type: Literal["conclude"] = "conclude"
    run: RunId
    result: Envelope
    rounds_bytes: Whole


class Countersigned(_Message):
    """Site to coordinator: the answer to :class:`Conclude`.

    ``statement`` is this site's signed :class:`~plasmid.release.attestation.Countersignature`.
    """

    type: Literal["countersigned"] = "countersigned"
    run: RunId
    site: SiteName
    statement: Envelope


class End(_Message):
    """Coordinator to site: the run is over; the worker may go."""

    type: Literal["end"] = "end"
    run: RunId
    state: str


class Revoked(_Message):
    """Coordinator to site: somebody is a member no more; the statement is a
    :class:`~plasmid.protocol.revocation.Revocation`, and the site keeps it."""

    type: Literal["revoked"] = "revoked"
    statement: Envelope


class RunRequest(_Message):
    """Person to coordinator, and whole to every invited site: plan or run this document.

    Attributes
    ----------
    project
        Digest of the project that the run belongs to.
    sites
        Who is invited; None for all sites of the project.
    requested
        When this was signed.
    nonce
        Makes two requests for the same document two runs.
    """

    type: Literal["run_request"] = "run_request"
    document: dict[str, Any]
    digest: Digest
    project: Digest
    sites: Annotated[list[SiteName], Field(min_length=1, max_length=64)] | None = None
    requested: Stamp
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


_NAME_CHARACTERS = 40


def run_id(request: RunRequest) -> str:
    """Return the id of the run that *request* asks for: its document's name, and 64 bits of its SHA-256."""
    document = request.document
    name = str(document.get("name") or document.get("computation") or "")[:_NAME_CHARACTERS]
    readable = re.sub(r"[^a-z0-9]", "-", name).lstrip("-") or "run"
    return f"{readable}-{sha256_hex(canonical_json(request.model_dump(mode='json')))[:16]}"


class StopRequest(_Message):
    """Person to coordinator: stop this run."""

    type: Literal["stop_request"] = "stop_request"
    run: RunId


FromPerson = RunRequest | StopRequest
FromCoordinator = Ask | Admit | Epoch | Relay | Manifest | Conclude | End | Revoked
ToSites = LogCheckpoint | LogCosignature
"""What one site says to another; the coordinator passes it on unopened."""
FromSite = (
    Admission | Advert | Bundles | Blobs | Ready | Contribution | Consent | Shares | Heartbeat | Failed
    | Countersigned
)  # fmt: skip
Statement = Advert | Bundle | Recovery | Ready | Contribution | Consent
Message = FromCoordinator | FromSite | FromPerson | Statement | ToSites

_ANY: TypeAdapter[Any] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def sign(identity: NamedSigner, message: BaseModel) -> Signed:
    """Return *message* signed by *identity*."""
    payload = message.model_dump(mode="json")
    signature = identity.sign(_PREFIX + canonical_json(payload))
    return Signed(payload=payload, signer=identity.name, signature=signature)


def open_signed(signed: Signed, public: str) -> Any:
    """Return the message inside *signed*, as its own type, after checking it.

    Raises
    ------
    ProtocolError
        ``protocol.signature`` or ``protocol.malformed``.
    """
    try:
        body = canonical_json(signed.payload)
        verify(public, _PREFIX + body, signed.signature)
        return _ANY.validate_json(body)
    except (ValidationError, ValueError, RecursionError) as error:
        raise ProtocolError(
            "protocol.malformed", f"a message from {signed.signer} does not have the form of its type."
        ) from error


def parse_signed(data: bytes) -> Signed:
    """Parse the wire form of a signed message. Raises ProtocolError (``protocol.malformed``)."""
    try:
        parse_json(data)
        return Signed.model_validate_json(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("protocol.malformed", "a message is not a signed message.") from error


def wire(signed: Signed) -> bytes:
    """Return the wire form of *signed*: canonical JSON."""
    return canonical_json(signed.model_dump(mode="json"))
