"""Verify an adapter's folder, offline: every byte of it, and the chain of signatures down to pinned keys.

Rules
-----
1. Every file is a subject of the release, with its SHA-256, and no other file is there. What clients of the
   hub leave in a folder (:data:`LEFT_BY_CLIENTS`) is passed over; it is never read.
2. The release is signed by a person of the project, and names the result and every countersignature: none
   can be taken out.
3. Keys count as trusted only where ``trust`` pins them. Without pins the release vouches for itself: it was
   not damaged on its way, and whoever made it holds the keys that it names. :class:`Verified` says which.
4. ``provenance.json`` and the card's sections on privacy and signatures are written again from what was
   signed, and must be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from plasmid.adapters.card import section
from plasmid.core.bounds import parse_json
from plasmid.core.errors import ModelError, ProtocolError
from plasmid.core.settings import read_settings
from plasmid.dp.claims import statement
from plasmid.protocol.envelope import Envelope, parse_envelope
from plasmid.protocol.identity import fingerprint
from plasmid.release.attestation import (
    BUNDLE,
    MAX_BUNDLE_BYTES,
    MAX_ROUNDS_BYTES,
    ROUNDS,
    Attestation,
    Countersignature,
    Release,
    Result,
    read_bundle,
)
from plasmid.release.provenance import FETCH, Attested, attested
from plasmid.secagg.statements import SiteName

PROJECT = "project.json"
LEFT_BY_CLIENTS = frozenset({".cache", ".gitattributes", ".huggingface"})
MAX_TEXT_BYTES = 16 * 2**20

Pin = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{64}|(?:[A-Z2-7]{4}-){6}[A-Z2-7]{4})$")]
"""A key, or its fingerprint."""


class Trust(BaseModel):
    """Keys that somebody has compared out of band. A site's ``peers.yaml`` is one of these, too."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinator: Pin | None = None
    sites: dict[SiteName, Pin] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_peers(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("sites"), list):
            peers = [peer for peer in values["sites"] if isinstance(peer, dict)]
            return {**values, "sites": {peer.get("name"): peer.get("key") for peer in peers}}
        return values


def read_trust(path: Path) -> Trust:
    """Return the pins in *path*. Raises RecipeError (``recipe.invalid``), naming file and line."""
    return read_settings(path, Trust)


@dataclass(frozen=True)
class Verified:
    """What was found in order.

    Attributes
    ----------
    coordinator
        The fingerprint of its key.
    person
        Who made the release.
    countersigned, missing
        Participants that have countersigned, and those that have not.
    pinned
        Whose keys the trust file pins: sites that have countersigned, and ``coordinator``.
    server_step
        ``"re-run"`` where at least one site re-ran every step.
    epsilon
        The largest of the sites', recomputed; None without a privacy unit.
    privacy
        What the run promises to whom, as sentences.
    files
        How many files were checked.
    """

    run: str
    project: str
    recipe: str
    base: str
    coordinator: str
    person: str
    participants: tuple[str, ...]
    countersigned: tuple[str, ...]
    missing: tuple[str, ...]
    pinned: tuple[str, ...]
    server_step: str
    epsilon: float | None
    privacy: tuple[str, ...]
    files: int

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values of the machine interface."""
        return asdict(self)


def verify_release(folder: Path, trust: Trust | None = None) -> Verified:
    """Verify the adapter in *folder*.

    Raises
    ------
    ModelError
        ``model.release_unsigned``: it carries no attestations; ``model.release_changed``: a file is not as it
        was released, is missing, or is one more; ``model.release_signature``, ``model.release_invalid``: see
        :func:`plasmid.release.provenance.attested`; ``model.release_claims``: card or provenance say
        something else than was signed; ``model.release_trust``: a key is not the pinned one, or none is
        pinned.
    """
    bundle = folder / BUNDLE
    if not bundle.is_file():
        raise ModelError(
            "model.release_unsigned",
            f"{folder} carries no attestations ({BUNDLE}).",
            "It was made by hand, merged, or by an early release: nothing about it can be verified.",
        )
    try:
        lines = read_bundle(_read(bundle, MAX_BUNDLE_BYTES))
        project = parse_envelope(_read(folder / PROJECT, MAX_TEXT_BYTES))
    except ProtocolError as error:
        raise ModelError("model.release_invalid", error.message, FETCH) from None
    result, words, release, names = _sorted(lines)
    _check_files(folder, names)
    made = attested(project, result, words, _read(folder / ROUNDS, MAX_ROUNDS_BYTES))
    person = _check_release(made, release, words)
    if {name: names.get(name) for name in made.files} != dict(made.files):
        raise ModelError(
            "model.release_invalid", "the release is of other files than the result names.", FETCH
        )
    pinned = _pinned(made, trust)
    _check_texts(folder, made)
    spent = made.facts.spent()
    return Verified(
        run=made.result.run,
        project=made.project.name,
        recipe=made.result.recipe,
        base=made.result.base.id,
        coordinator=fingerprint(made.result.coordinator),
        person=person,
        participants=tuple(made.result.participants),
        countersigned=tuple(made.words),
        missing=tuple(made.missing),
        pinned=pinned,
        server_step="re-run" if made.rerun_by else "not re-run",
        epsilon=max(spent.values(), default=None),
        privacy=tuple(statement(made.facts)),
        files=len(names),
    )


def _sorted(
    lines: list[tuple[Envelope, Attestation]],
) -> tuple[Envelope, dict[str, Envelope], Envelope, dict[str, str]]:
    """Return result, countersignatures by site, and the release with its files."""
    words: dict[str, Envelope] = {}
    for envelope, said in lines[1:-1]:
        word = said.predicate
        if not isinstance(word, Countersignature) or word.site in words:
            raise ModelError("model.release_invalid", f"{BUNDLE} is not in its order.", FETCH)
        words[word.site] = envelope
    ends = len(lines) >= 2 and isinstance(lines[0][1].predicate, Result)
    if not ends or not isinstance(lines[-1][1].predicate, Release):
        raise ModelError(
            "model.release_signature", f"{BUNDLE} lacks the coordinator's result, or the release.", FETCH
        )
    return lines[0][0], words, lines[-1][0], lines[-1][1].files


def _check_files(folder: Path, names: Mapping[str, str]) -> None:
    """Compare every file with its digest in *names*; name all that differ."""
    there = {path.name: path for path in folder.iterdir() if path.name not in LEFT_BY_CLIENTS}
    there.pop(BUNDLE)
    wrong = [f"{name} is missing" for name in sorted(set(names) - set(there))]
    for name, path in sorted(there.items()):
        if name not in names:
            wrong.append(f"{name} is not part of the release")
        elif not path.is_file() or _digest(path) != names[name]:
            wrong.append(f"{name} is not as it was released")
    if wrong:
        raise ModelError("model.release_changed", f"the adapter was changed: {'; '.join(wrong)}.", FETCH)


def _check_release(made: Attested, envelope: Envelope, words: Mapping[str, Envelope]) -> str:
    """Return who made the release, if its signature and what it names are in order."""
    said = envelope.open(Attestation).predicate
    assert isinstance(said, Release), "it was sorted as one"
    keys = {person.key for person in made.project.people if person.name == said.person}
    try:
        signed = bool(keys) and envelope.signers(keys) == keys
    except ProtocolError:
        signed = False
    if not signed:
        raise ModelError(
            "model.release_signature",
            f"{said.person} has not signed the release, or is nobody of the project {made.project.name}.",
            FETCH,
        )
    digests = {site: word.open(Attestation).digest() for site, word in words.items()}
    if (said.run, said.released_result, said.countersignatures) != (made.result.run, made.digest, digests):
        raise ModelError(
            "model.release_signature",
            "the release names another result, or other countersignatures than are there.",
            FETCH,
        )
    return said.person


def _pinned(made: Attested, trust: Trust | None) -> tuple[str, ...]:
    """Return whose keys are pinned. Raises ModelError (``model.release_trust``)."""
    if trust is None:
        return ()
    keys = {site: made.project.site(site).key for site in made.words}
    pins = dict(trust.sites)
    named = {site.name: site.key for site in made.project.sites}
    wrong = [site for site, pin in pins.items() if site in named and not _is(named[site], pin)]
    if trust.coordinator is not None and not _is(made.result.coordinator, trust.coordinator):
        wrong.append("the coordinator")
    if wrong:
        raise ModelError(
            "model.release_trust",
            f"the release names another key than you have pinned for {', '.join(sorted(wrong))}.",
            "Somebody else made it, or a key was replaced. Compare fingerprints with the owner.",
        )
    found = sorted(site for site in keys if site in pins)
    if trust.coordinator is not None:
        found.append("coordinator")
    if not found:
        raise ModelError(
            "model.release_trust",
            "nobody who signed this release is pinned in your trust file.",
            f"Signed by: {', '.join(sorted(keys)) or 'no site'}. Compare fingerprints, and pin them.",
        )
    return tuple(found)


def _check_texts(folder: Path, made: Attested) -> None:
    """Write provenance and the card's sections again and compare."""
    wrong = []
    try:
        text = _read(folder / "provenance.json", MAX_TEXT_BYTES)
        found = parse_json(text)
        if found != json.loads(json.dumps(made.provenance(found["metrics"], found.get("evaluations", ())))):
            wrong.append("provenance.json")
    except (ValueError, KeyError, TypeError, RecursionError):
        wrong.append("provenance.json")
    card = _read(folder / "README.md", MAX_TEXT_BYTES).decode("utf-8", "replace")
    for title, lines in (("Privacy", made.privacy_lines()), ("Signatures", made.signature_lines())):
        if section(title, lines) not in card or card.count(f"\n## {title}") != 1:
            wrong.append(f"the card's section {title!r}")
    if wrong:
        raise ModelError("model.release_claims", f"other than what was signed: {', '.join(wrong)}.", FETCH)


def _is(key: str, pin: str) -> bool:
    return pin in (key, fingerprint(key))


def _read(path: Path, limit_bytes: int) -> bytes:
    if not path.is_file() or path.stat().st_size > limit_bytes:
        raise ModelError(
            "model.release_changed", f"{path.name} is missing, or longer than {limit_bytes} bytes.", FETCH
        )
    return path.read_bytes()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
