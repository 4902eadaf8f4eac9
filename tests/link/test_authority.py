"""The local CA: what it issues passes a strict verifier, and nothing else does."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from plasmid.link.authority import CA_DAYS, LEAF_DAYS, Authority
from plasmid.protocol.enrolment import check_csr, new_tls_key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ca")
    Authority.create(made).issue_server(made, ["localhost", "127.0.0.1", "hub.example.org"])
    return made


@pytest.fixture(scope="module")
def ca(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())


@pytest.fixture(scope="module")
def server(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())


@pytest.fixture(scope="module")
def client(folder: Path) -> x509.Certificate:
    csr = check_csr(new_tls_key("somebody-else", b"password")[1])
    return Authority(folder).issue_client(csr, name="alpha", role="site", organisation="A" * 100)


def extension(certificate: x509.Certificate, kind: Any) -> tuple[Any, bool]:
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


def test_the_ca_may_sign_certificates_and_nothing_below_it(ca: x509.Certificate) -> None:
    basic, critical = extension(ca, x509.BasicConstraints)
    assert (basic.ca, basic.path_length, critical) == (True, 0, True)
    usage, critical = extension(ca, x509.KeyUsage)
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature, critical) == (
        True,
        True,
        False,
        True,
    )
    subject, _ = extension(ca, x509.SubjectKeyIdentifier)
    authority, _ = extension(ca, x509.AuthorityKeyIdentifier)
    assert authority.key_identifier == subject.digest


def test_a_leaf_may_only_authenticate(
    ca: x509.Certificate, server: x509.Certificate, client: x509.Certificate
) -> None:
    subject, _ = extension(ca, x509.SubjectKeyIdentifier)
    for leaf, purpose in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
        (client, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        basic, critical = extension(leaf, x509.BasicConstraints)
        assert (basic.ca, critical) == (False, True)
        usage, critical = extension(leaf, x509.KeyUsage)
        assert (usage.digital_signature, usage.key_cert_sign, critical) == (True, False, True)
        assert list(extension(leaf, x509.ExtendedKeyUsage)[0]) == [purpose]
        assert extension(leaf, x509.AuthorityKeyIdentifier)[0].key_identifier == subject.digest
        own, _ = extension(leaf, x509.SubjectKeyIdentifier)
        assert own == x509.SubjectKeyIdentifier.from_public_key(leaf.public_key())


def test_the_subject_is_what_the_invitation_says_not_the_request(client: x509.Certificate) -> None:
    assert client.subject.rfc4514_string() == f"CN=alpha,OU=site,O={'A' * 100}"


def handshake(
    server: tuple[Path, Path], client: tuple[Path, Path], cas: tuple[Path, Path], host: str
) -> None:
    """Shake hands in memory, both ends as strict as OpenSSL is (RFC 5280). Raises ssl.SSLError."""
    contexts = []
    for purpose, pair, ca in (
        (ssl.Purpose.CLIENT_AUTH, server, cas[0]),
        (ssl.Purpose.SERVER_AUTH, client, cas[1]),
    ):
        context = ssl.create_default_context(purpose, cafile=str(ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(*pair)
        contexts.append(context)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        contexts[0].wrap_bio(up, down, server_side=True),
        contexts[1].wrap_bio(down, up, server_hostname=host),
    ]
    for end in ends[::-1] * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


def written(folder: Path, *, name: str = "alpha") -> tuple[Path, Path, bytes]:
    """Write a client's certificate and key beside the CA in *folder*."""
    key, csr = new_tls_key(name, b"password")
    certificate = Authority(folder).issue_client(check_csr(csr), name=name, role="site", organisation="A")
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return folder / "tls.pem", folder / "tls.key", b"password"


def test_certificates_pass_a_strict_verifier_for_their_purpose_alone(folder: Path, tmp_path: Path) -> None:
    server, client = (folder / "server.pem", folder / "server.key"), written(folder)
    ca = folder / "ca.pem"
    for host in ("localhost", "hub.example.org", "127.0.0.1"):
        handshake(server, client, (ca, ca), host)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client, (ca, ca), "example.org")
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        handshake(client, client, (ca, ca), "localhost")
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        handshake(server, server, (ca, ca), "localhost")
    Authority.create(tmp_path)
    foreign = written(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, (ca, tmp_path / "ca.pem"), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, foreign, (ca, ca), "localhost")


def test_certificates_end(ca: x509.Certificate, server: x509.Certificate, client: x509.Certificate) -> None:
    now = datetime.now(UTC)
    for certificate, days in ((ca, CA_DAYS), (server, LEAF_DAYS), (client, LEAF_DAYS)):
        assert now - timedelta(hours=1) < certificate.not_valid_before_utc < now
        end = certificate.not_valid_after_utc - now
        assert timedelta(days=days - 1) < end < timedelta(days=days + 1)
    assert len({certificate.serial_number for certificate in (ca, server, client)}) == 3


def test_private_keys_are_their_owner_s_alone(folder: Path) -> None:
    for name in ("ca.key", "server.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


def test_the_ca_is_read_back(folder: Path, ca: x509.Certificate) -> None:
    again = Authority(folder)
    assert again.pem == (folder / "ca.pem").read_text()
    assert isinstance(again._key, Ed25519PrivateKey)
    assert again._key.public_key() == ca.public_key()
