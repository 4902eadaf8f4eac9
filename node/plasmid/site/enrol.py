"""The newcomer's side of enrolment, for sites and for people.

A credential is a folder with ``identity.key``, ``tls.key``, ``tls.pem``, ``ca.pem`` and
``coordinator.json`` (URL, pinned identity key, own name).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from plasmid.core.errors import LinkError, ProtocolError, UsageError
from plasmid.core.files import write_atomic
from plasmid.protocol.enrolment import CoordinatorCard, Role, RosterEntry, new_tls_key, signed_request
from plasmid.protocol.identity import Identity, fingerprint
from plasmid.site.link import LinkClient, answered_error

Confirm = Callable[[str, str], bool]
"""Asks the owner whether (what, fingerprint) is right."""


@dataclass(frozen=True)
class Credential:
    """An enrolled identity's folder."""

    folder: Path

    @property
    def enrolled(self) -> bool:
        """Whether the folder holds a certificate."""
        return (self.folder / "coordinator.json").exists()

    def coordinator(self) -> tuple[str, str]:
        """Return the coordinator's URL and pinned key. Raises UsageError (``usage.not_enrolled``)."""
        if not self.enrolled:
            raise UsageError(
                "usage.not_enrolled",
                f"{self.folder} is not enrolled at a coordinator.",
                "Ask its operator for an invitation, for 'plasmid site join' or 'plasmid login'.",
            )
        known = json.loads((self.folder / "coordinator.json").read_bytes())
        return known["url"], known["key"]

    def identity(self) -> Identity:
        """Return the enrolled identity."""
        self.coordinator()
        name = json.loads((self.folder / "coordinator.json").read_bytes())["name"]
        return Identity.from_pem(name, (self.folder / "identity.key").read_bytes())

    def move(self, url: str) -> None:
        """Dial the coordinator at *url* from now on; its pinned identity and CA stay."""
        _, key = self.coordinator()
        self.remember(url, key, self.identity().name)

    def remember(self, url: str, key: str, name: str) -> None:
        """Write where the coordinator is, its pinned identity key, and the own name."""
        known = {"url": url.rstrip("/"), "key": key, "name": name}
        write_atomic(self.folder / "coordinator.json", json.dumps(known).encode())

    def connect(self, *, url: str | None = None, patience_s: float = 30.0) -> LinkClient:
        """Return a client of the coordinator; *url* overrides the address it was enrolled at."""
        known, _ = self.coordinator()
        return LinkClient(
            url or known,
            ca=self.folder / "ca.pem",
            certificate=self.folder / "tls.pem",
            key=self.folder / "tls.key",
            patience_s=patience_s,
        )


def new_identity(folder: Path, name: str) -> Identity:
    """Make an identity in *folder*, which may not hold one. Raises UsageError (``usage.exists``)."""
    path = folder / "identity.key"
    if path.exists():
        raise UsageError("usage.exists", f"{folder} already holds an identity.", "Choose another folder.")
    identity = Identity.generate(name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, identity.to_pem(), mode=0o600)
    return identity


def fetch_card(url: str) -> CoordinatorCard:
    """Return the coordinator's card, checked against its own signature only: confirm its fingerprint.

    The connection is not authenticated yet, so nothing secret is sent over it.

    Raises
    ------
    LinkError
        ``link.unreachable``: nothing there speaks this protocol.
    """
    try:
        response = httpx.get(f"{url}/v1/card", verify=False, trust_env=False, timeout=10.0)  # noqa: S501 - see above
        card = CoordinatorCard.model_validate(response.json())
    except (httpx.TransportError, ValidationError, ValueError) as error:
        raise LinkError(
            "link.unreachable",
            f"no Plasmid coordinator answers at {url}.",
            "Check the address and that 'plasmid coordinator start' is running there.",
        ) from error
    card.check()
    return card


def enrol(
    folder: Path,
    identity: Identity,
    *,
    url: str,
    role: Role,
    organisation: str,
    invitation: str,
    confirm: Confirm,
) -> None:
    """Enrol *identity* at the coordinator and write the credential into *folder*.

    Raises
    ------
    ProtocolError
        ``protocol.fingerprint``: the owner did not confirm the coordinator's fingerprint.
    """
    url = url.rstrip("/")
    card = fetch_card(url)
    if not confirm(f"the coordinator at {url}", fingerprint(card.key)):
        raise ProtocolError(
            "protocol.fingerprint",
            f"the coordinator's fingerprint {fingerprint(card.key)} was not confirmed.",
            "Ask the coordinator's operator to read it out ('plasmid coordinator show').",
        )
    tls_key, csr = new_tls_key(identity.name)
    request = signed_request(identity, invitation=invitation, role=role, organisation=organisation, csr=csr)
    ca = folder / "ca.pem"
    write_atomic(ca, card.ca.encode())
    context = ssl.create_default_context(cafile=str(ca))
    try:
        response = httpx.post(
            f"{url}/v1/enrol",
            content=request.model_dump_json(),
            verify=context,
            trust_env=False,
            timeout=10.0,
        )
    except httpx.TransportError as error:
        raise LinkError(
            "link.unreachable", f"the coordinator at {url} cannot be reached over TLS."
        ) from error
    if not response.is_success:
        raise answered_error(response)
    write_atomic(folder / "tls.key", tls_key, mode=0o600)
    write_atomic(folder / "tls.pem", response.json()["certificate"].encode())
    Credential(folder).remember(url, card.key, identity.name)


def fetch_roster(link: LinkClient) -> tuple[list[RosterEntry], list[str]]:
    """Return the enrolled sites as the coordinator lists them, and the names of those that are connected."""
    answer = link.request("GET", "/v1/roster").json()
    return [RosterEntry.model_validate(entry) for entry in answer["sites"]], list(answer["online"])
