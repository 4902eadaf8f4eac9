"""What a member does about its membership: a new certificate before the old one ends, and leaving.

Rules
-----
1. Both are requests that the identity key signs. They need no client certificate: a site that was switched
   off for a year renews one that has expired.
2. Certificate and TLS key are replaced by one rename; whatever happens, the folder holds a pair that fits.
3. It is time when a third of the certificate's life is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from plasmid.core.clock import Clock, now
from plasmid.core.errors import KeysError, LinkError
from plasmid.gateway.keys.keystore import KeyStore
from plasmid.protocol.enrolment import new_tls_key
from plasmid.protocol.identity import Signer
from plasmid.uplink.enrol import Credential, keep_certificate, stranger
from plasmid.uplink.link import answered_error, answered_json
from plasmid.uplink.signing import SignedRequests

LEFT_OF_LIFE = 1 / 3


@dataclass(frozen=True)
class Validity:
    """From when, and until when, a certificate is valid; UTC."""

    begins: datetime
    ends: datetime

    def is_due(self, time: datetime) -> bool:
        """Whether it should be renewed at *time*."""
        return time >= self.ends - (self.ends - self.begins) * LEFT_OF_LIFE


def validity(certificate: Path) -> Validity:
    """Return the validity of the certificate in a file. Raises KeysError (``keys.tls``)."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise KeysError(
            "keys.tls", f"{certificate} holds no certificate.", "Run 'plasmid site rotate' for a new one."
        ) from error
    return Validity(found.not_valid_before_utc, found.not_valid_after_utc)


def renew(credential: Credential, keys: KeyStore, *, clock: Clock = now) -> Validity:
    """Get a certificate for a new TLS key, write both, and return its validity.

    Raises
    ------
    LinkError
        ``link.unreachable``; ``link.clock``: this host's and the coordinator's differ; ``link.not_enrolled``.
    """
    identity = keys.identity()
    tls_key, csr = new_tls_key(identity.name, keys.tls_password())
    answer = _post(credential, identity, "/v1/renew", csr, clock)
    keep_certificate(credential.folder, answer, tls_key, csr)
    return validity(credential.certificate)


def leave(credential: Credential, keys: KeyStore, *, clock: Clock = now) -> None:
    """Be a member no more: the coordinator revokes this identity and tells all sites. Raises LinkError."""
    identity = keys.identity()
    _post(credential, identity, "/v1/leave", f"{identity.name} leaves", clock)


def _post(credential: Credential, identity: Signer, path: str, content: str, clock: Clock) -> Any:
    url, coordinator = credential.coordinator()
    network = credential.network()
    context = network.context(credential.folder / "ca.pem")
    try:
        with stranger(context, network, credential.folder) as client:
            auth = SignedRequests(identity, coordinator, clock=clock)
            response = client.post(f"{url}{path}", content=content, auth=auth)
    except httpx.TransportError as error:
        raise LinkError(
            "link.unreachable",
            f"the coordinator at {url} cannot be reached ({type(error).__name__}).",
            "Check the address and that 'plasmid coordinator start' is running there.",
        ) from error
    if not response.is_success:
        raise answered_error(response)
    return answered_json(response)
