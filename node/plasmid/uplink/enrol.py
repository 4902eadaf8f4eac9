"""The newcomer's side of enrolment, for sites and for people.

A credential is a folder with ``keys.json`` (:mod:`plasmid.gateway.keys.keystore`), ``tls.pem`` (certificate
and encrypted TLS key), ``ca.pem`` and ``coordinator.json`` (URL, pinned identity key, own name).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from plasmid.core.errors import LinkError, ProtocolError, UsageError
from plasmid.core.files import write_atomic
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import KEYS_FILE, EncryptedFile, KeyStore, Passphrase
from plasmid.protocol.enrolment import (
    CoordinatorCard,
    Role,
    RosterEntry,
    new_tls_key,
    parse_card,
    signed_request,
)
from plasmid.protocol.identity import fingerprint
from plasmid.uplink.capped_response import CappedTransport
from plasmid.uplink.link import UNREADABLE, LinkClient, answered_error, answered_json, json_in
from plasmid.uplink.network import Network, read_network
from plasmid.uplink.signing import SignedRequests

_MAX_ANSWER_BYTES = 64 * 1024
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

    @property
    def name(self) -> str:
        """The name under which it is enrolled. Raises as :meth:`coordinator`."""
        self.coordinator()
        return str(json.loads((self.folder / "coordinator.json").read_bytes())["name"])

    def keys(self, passphrase: Passphrase) -> EncryptedFile:
        """Return the keys, which open at their first use."""
        return EncryptedFile(self.folder / KEYS_FILE, passphrase)

    @property
    def certificate(self) -> Path:
        """Certificate and TLS key."""
        return self.folder / "tls.pem"

    def move(self, url: str) -> None:
        """Dial the coordinator at *url* from now on; its pinned identity and CA stay."""
        _, key = self.coordinator()
        self.remember(url, key, self.name)

    def remember(self, url: str, key: str, name: str) -> None:
        """Write where the coordinator is, its pinned identity key, and the own name."""
        known = {"url": url.rstrip("/"), "key": key, "name": name}
        write_atomic(self.folder / "coordinator.json", json.dumps(known).encode())

    def network(self) -> Network:
        """Return how its owner gets out: ``network`` of a site's site.yaml, or a person's network.yaml."""
        if (self.folder / "site.yaml").exists():
            return SiteHome(self.folder).config().network
        return read_network(self.folder / "network.yaml")

    def connect(self, keys: KeyStore, *, url: str | None = None, patience_s: float = 30.0) -> LinkClient:
        """Return a client of the coordinator; *url* overrides the address it was enrolled at."""
        known, key = self.coordinator()
        network = self.network()
        return LinkClient(
            url or known,
            ca=self.folder / "ca.pem",
            certificate=self.certificate,
            password=keys.tls_password(),
            patience_s=patience_s,
            network=network,
            auth=SignedRequests(keys.identity(), key) if network.may_be_intercepted else None,
        )


def fetch_card(url: str, *, network: Network | None = None, folder: Path = Path()) -> CoordinatorCard:
    """Return the coordinator's card, checked against its own signature only: confirm its fingerprint.

    The connection is not authenticated yet, so nothing secret is sent over it.

    Parameters
    ----------
    network, folder
        The owner's settings, and the folder of the files that they name.

    Raises
    ------
    LinkError
        ``link.unreachable``: nothing there speaks this protocol.
    """
    try:
        with stranger(False, network or Network(), folder) as client:
            card = parse_card(client.get(f"{url}/v1/card").content)
    except (httpx.TransportError, ProtocolError, LinkError) as error:
        raise LinkError(
            "link.unreachable",
            f"no Plasmid coordinator answers at {url}.",
            "Check the address and that 'plasmid coordinator start' is running there.",
        ) from error
    card.check()
    return card


def enrol(
    folder: Path,
    keys: KeyStore,
    *,
    url: str,
    role: Role,
    organisation: str,
    invitation: str,
    confirm: Confirm,
) -> None:
    """Enrol the owner of *keys* at the coordinator and write the credential into *folder*.

    Raises
    ------
    ProtocolError
        ``protocol.fingerprint``: the owner did not confirm the coordinator's fingerprint.
    LinkError
        ``link.unreachable``; ``link.refused``: what the coordinator shows or answers is no certificate.
    """
    url = url.rstrip("/")
    network = Credential(folder).network()
    card = fetch_card(url, network=network, folder=folder)
    if not confirm(f"the coordinator at {url}", fingerprint(card.key)):
        raise ProtocolError(
            "protocol.fingerprint",
            f"the coordinator's fingerprint {fingerprint(card.key)} was not confirmed.",
            "Ask the coordinator's operator to read it out ('plasmid coordinator show').",
        )
    identity = keys.identity()
    tls_key, csr = new_tls_key(identity.name, keys.tls_password())
    request = signed_request(identity, invitation=invitation, role=role, organisation=organisation, csr=csr)
    context = _pin(folder, card, network)
    try:
        with stranger(context, network, folder) as client:
            response = client.post(f"{url}/v1/enrol", content=request.model_dump_json())
    except httpx.TransportError as error:
        raise LinkError(
            "link.unreachable", f"the coordinator at {url} cannot be reached over TLS."
        ) from error
    if not response.is_success:
        raise answered_error(response)
    keep_certificate(folder, answered_json(response), tls_key, csr)
    Credential(folder).remember(url, card.key, identity.name)


def _pin(folder: Path, card: CoordinatorCard, network: Network) -> ssl.SSLContext:
    """Write the CA of *card* into *folder*; return a client's context under it."""
    ca = folder / "ca.pem"
    try:
        x509.load_pem_x509_certificate(card.ca.encode())
        write_atomic(ca, card.ca.encode())
        return network.context(ca)
    except (*UNREADABLE, ssl.SSLError) as error:
        raise LinkError("link.refused", "the coordinator's card holds no certificate of a CA.") from error


def keep_certificate(folder: Path, answer: Any, tls_key: bytes, csr: str) -> None:
    """Write the certificate in *answer*, and its key, as one file.

    Raises
    ------
    LinkError
        ``link.refused``: it is no certificate for the key of *csr*.
    """
    try:
        certificate = str(answer["certificate"]).encode()
        certified = x509.load_pem_x509_certificate(certificate).public_key()
        if certified != x509.load_pem_x509_csr(csr.encode()).public_key():
            raise ValueError
    except (KeyError, *UNREADABLE) as error:
        raise LinkError(
            "link.refused", "the coordinator answered with no certificate for the new key."
        ) from error
    write_atomic(Credential(folder).certificate, certificate.rstrip() + b"\n" + tls_key, mode=0o600)


def stranger(verify: ssl.SSLContext | bool, network: Network, folder: Path) -> httpx.Client:
    """Return a client of somebody who is not enrolled yet."""
    through = httpx.HTTPTransport(verify=verify, trust_env=False, proxy=network.through(folder))
    return httpx.Client(transport=CappedTransport(through, _MAX_ANSWER_BYTES), trust_env=False, timeout=10.0)


def fetch_roster(link: LinkClient) -> tuple[list[RosterEntry], list[str]]:
    """Return the enrolled sites as the coordinator lists them, and the names of those that are connected."""
    return roster_in(link.request("GET", "/v1/roster").content)


def roster_in(content: bytes) -> tuple[list[RosterEntry], list[str]]:
    """Return what :func:`fetch_roster` does. Raises LinkError (``link.refused``)."""
    try:
        answer = json_in(content)
        sites = [RosterEntry.model_validate(entry) for entry in answer["sites"]]
        return sites, [str(name) for name in answer["online"]]
    except (KeyError, TypeError, ValueError) as error:
        raise LinkError("link.refused", "the coordinator's roster does not have its form.") from error
