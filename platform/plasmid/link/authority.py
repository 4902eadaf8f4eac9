"""The coordinator's local CA: it certifies TLS keys of the server, the sites and the people.

Rules
-----
1. One Ed25519 CA per coordinator, path length 0; its certificate carries key usage, SKI and AKI, which
   strict verifiers (Python 3.13) ask for.
2. A certificate's subject is CN = name, OU = role ("site", "person"), O = organisation. It opens the
   connection; what is said on it is signed by the identity key, which is another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plasmid.core.files import write_atomic

CA_DAYS = 3650
LEAF_DAYS = 365


class Authority:
    """A CA in a folder: ``ca.pem`` and ``ca.key``."""

    def __init__(self, folder: Path) -> None:
        key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        self._key = key
        self.pem = (folder / "ca.pem").read_text()
        self._certificate = x509.load_pem_x509_certificate(self.pem.encode())

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """Make a new CA in *folder*."""
        key = Ed25519PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Plasmid coordinator CA")])
        certificate = (
            _builder(name, name, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
            )
            .sign(key, None)
        )
        write_atomic(folder / "ca.key", _private_pem(key), mode=0o600)
        write_atomic(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))
        return cls(folder)

    def issue_server(self, folder: Path, hosts: Sequence[str]) -> None:
        """Write ``server.key`` and ``server.pem`` for *hosts* (names or addresses) into *folder*."""
        key = Ed25519PrivateKey.generate()
        names = [_general_name(host) for host in hosts]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Plasmid coordinator")])
        certificate = self._leaf(subject, key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, names)
        write_atomic(folder / "server.key", _private_pem(key), mode=0o600)
        write_atomic(folder / "server.pem", certificate.public_bytes(Encoding.PEM))

    def issue_client(
        self, csr: x509.CertificateSigningRequest, *, name: str, role: str, organisation: str
    ) -> x509.Certificate:
        """Certify the key of *csr* for *name*; what the request says of itself is ignored."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        key = csr.public_key()
        assert isinstance(key, Ed25519PublicKey)
        return self._leaf(subject, key, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _leaf(
        self,
        subject: x509.Name,
        key: Ed25519PublicKey,
        usage: x509.ObjectIdentifier,
        names: list[x509.GeneralName],
    ) -> x509.Certificate:
        builder = (
            _builder(subject, self._certificate.subject, key, LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, None)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
