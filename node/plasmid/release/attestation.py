"""What is said about a released adapter, as in-toto statements (v1) in DSSE envelopes.

    Result            the coordinator: these files follow from these rounds
    Countersignature  a participating site: I took part, and this follows from the published totals
    Release           who fetched the adapter: these are all its files

Rules
-----
1. A statement is in-toto's ``Statement`` (spec/v1): the files by SHA-256, and a predicate whose type says
   what is stated about them. In an envelope its type is in-toto's own, whatever the predicate.
2. All attestations of an adapter are the lines of one file, :data:`BUNDLE`, in that order (in-toto's bundle).
   Every other file of the folder is a subject of the last line.
3. A countersignature and a release name the result by the SHA-256 of its payload.
4. :data:`ROUNDS` is the run's history: the manifest of every round that was summed, whole, and over whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from plasmid.bases.catalogue import ModelId, Revision
from plasmid.core.bounds import check_json
from plasmid.core.canonical import canonical_json, sha256_hex
from plasmid.core.errors import ProtocolError
from plasmid.protocol.envelope import Envelope, Statement, parse_envelope
from plasmid.protocol.identity import PublicKey
from plasmid.protocol.messages import Manifest, Total, Whole
from plasmid.secagg.statements import Digest, RunId, SiteName

BUNDLE = "attestations.intoto.jsonl"
ROUNDS = "rounds.json"
IN_TOTO_TYPE = "application/vnd.in-toto+json"
MAX_BUNDLE_BYTES = 32 * 2**20
MAX_ROUNDS_BYTES = 64 * 2**20
MAX_ROUNDS_VALUES = 20_000_000

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Line = Annotated[str, StringConstraints(max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Digests(_Part):
    """in-toto's DigestSet, with the one algorithm that is used here."""

    sha256: Digest


class Subject(_Part):
    """One file."""

    name: FileName
    digest: Digests


class Base(_Part):
    """The base model."""

    id: ModelId
    revision: Revision
    digest: Digest


class EpochFigures(_Part):
    """n, c, theta and m of a key epoch."""

    n: Whole
    c: Whole
    theta: Whole
    m: Whole


class HeldBack(_Part):
    """What the sites' loss on rows that they held back chose (:mod:`plasmid.recipes.stopping`).

    Attributes
    ----------
    after
        How many rounds the released state is.
    losses
        The mean loss of the first state, and of that after each round but the last.
    """

    release: Literal["best", "last"]
    after: Whole
    losses: Annotated[list[float], Field(min_length=1, max_length=100_000)]


class Result(_Part):
    """What a run came to, said by its coordinator.

    Attributes
    ----------
    coordinator
        Its identity key: sites compare it with the one that they pinned.
    requester
        Who asked for the run.
    project, recipe
        Digests; ``name`` is the recipe's.
    code
        The release of Plasmid that the coordinator runs.
    hardware
        Of the coordinator.
    strategy
        The server's optimiser.
    step
        The fixed-point step.
    held_back
        None where the recipe says nothing about an early end. Else ``rounds`` is how many there were.
    near_state
        Whether the run ended early because, without a privacy unit, sites refuse a sum at a state near an
        earlier one (:mod:`plasmid.secagg.near_states`).
    state, total
        The last public state, and the last round's sum, from which it follows; with ``held_back`` the state
        that was chosen, and the last round's sum.
    privacy
        :meth:`plasmid.dp.privacy_statement.PrivacyFacts.as_json`.
    """

    run: RunId
    coordinator: PublicKey
    requester: SiteName
    project: Digest
    name: Line
    recipe: Digest
    base: Base
    code: Line
    hardware: Line
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    participants: Annotated[list[SiteName], Field(min_length=1, max_length=4096)]
    epochs: Annotated[list[EpochFigures], Field(min_length=1, max_length=1000)]
    strategy: Line
    step: float
    state: Digest
    total: Total
    privacy: dict[str, Any]
    held_back: HeldBack | None = None
    near_state: bool = False


class Countersignature(_Part):
    """A site's own word on a result that it has checked.

    Attributes
    ----------
    result
        SHA-256 of the result's payload.
    contributed, rerun
        To how many rounds the site contributed, and of how many it re-ran the step from sum to next state.
    server_step
        ``re-run`` where it re-ran all of them.
    epsilon, delta
        What its ledger is charged for the run; None without a privacy unit.
    hardware
        Of the site.
    """

    run: RunId
    site: SiteName
    result: Digest
    contributed: Whole
    rerun: Whole
    server_step: Literal["re-run", "not re-run"]
    epsilon: float | None
    delta: float | None
    hardware: Line


class Release(_Part):
    """All files of a folder, said by a person of the project.

    ``countersignatures`` are the SHA-256 of the payloads of all that are in the bundle, by site.
    """

    run: RunId
    person: SiteName
    released_result: Digest
    countersignatures: Annotated[dict[SiteName, Digest], Field(max_length=4096)]


PredicateType = Literal["urn:plasmid:result:1", "urn:plasmid:countersignature:1", "urn:plasmid:release:1"]
_TYPES: dict[type[_Part], PredicateType] = {
    Result: "urn:plasmid:result:1",
    Countersignature: "urn:plasmid:countersignature:1",
    Release: "urn:plasmid:release:1",
}


class Attestation(Statement):
    """An in-toto statement with one of the three predicates; ``subject`` is in the order of the names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        "https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: Annotated[list[Subject], Field(min_length=1, max_length=200)]
    predicateType: PredicateType  # noqa: N815 - the standard's name
    predicate: Result | Countersignature | Release

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if _TYPES[type(self.predicate)] != self.predicateType:
            raise ValueError("the predicate is not of its type")
        names = [subject.name for subject in self.subject]
        if names != sorted(set(names)):
            raise ValueError("subjects are listed once each, by name")
        return self

    def payload(self) -> bytes:
        """Return the canonical JSON of this statement."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def payload_type(cls) -> str:
        """Return in-toto's media type."""
        return IN_TOTO_TYPE

    @classmethod
    def about(cls, files: Mapping[str, str], predicate: Result | Countersignature | Release) -> Attestation:
        """Return the statement of *predicate* about *files*: SHA-256 by name."""
        subject = [Subject(name=name, digest=Digests(sha256=files[name])) for name in sorted(files)]
        kind: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
        return cls(_type=kind, subject=subject, predicateType=_TYPES[type(predicate)], predicate=predicate)

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file, by name."""
        return {subject.name: subject.digest.sha256 for subject in self.subject}


class Round(_Part):
    """One sum: its manifest, and the sites over which it is."""

    manifest: Manifest
    sites: Annotated[list[SiteName], Field(min_length=1, max_length=64)]


def pack_rounds(rounds: Iterable[Round]) -> bytes:
    """Return the contents of :data:`ROUNDS`."""
    return canonical_json({"rounds": [one.model_dump(mode="json") for one in rounds]})


def read_rounds(data: bytes) -> list[Round]:
    """Return the rounds in *data*, as :func:`pack_rounds` writes them.

    Raises
    ------
    ProtocolError
        ``protocol.malformed``.
    """

    class Rounds(_Part):
        rounds: list[Round]

    try:
        if len(data) > MAX_ROUNDS_BYTES:
            raise ValueError
        check_json(data, max_values=MAX_ROUNDS_VALUES)
        found = Rounds.model_validate_json(data).rounds
        if pack_rounds(found) != data:
            raise ValueError
    except (ValidationError, ValueError, RecursionError):
        raise ProtocolError("protocol.malformed", f"{ROUNDS} is not the history of a run.") from None
    return found


def pack_bundle(envelopes: Iterable[Envelope]) -> bytes:
    """Return the contents of :data:`BUNDLE`."""
    return b"".join(envelope.wire() + b"\n" for envelope in envelopes)


def read_bundle(data: bytes) -> list[tuple[Envelope, Attestation]]:
    """Return the envelopes in *data* with what they hold; no signature is checked.

    Raises
    ------
    ProtocolError
        ``protocol.malformed``.
    """
    *lines, rest = data.split(b"\n")
    if rest or len(data) > MAX_BUNDLE_BYTES or len(lines) > 4100:
        raise ProtocolError("protocol.malformed", f"{BUNDLE} is not a bundle of attestations.")
    found = []
    for line in lines:
        envelope = parse_envelope(line)
        if envelope.wire() != line:
            raise ProtocolError("protocol.malformed", f"a line of {BUNDLE} is not in its one spelling.")
        found.append((envelope, envelope.open(Attestation)))
    return found


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file, by name."""
    return {name: sha256_hex(content) for name, content in files.items()}
