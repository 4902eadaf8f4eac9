"""The hub's process: plain on loopback, with TLS elsewhere, its end, and what a crash leaves."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from plasmid.core.errors import HubError
from plasmid.hub.server import Tls, reached, serving
from plasmid.hub.settings import HubSettings
from plasmid.hub.store.names import RepoId

LOCAL = "127.0.0.1"
CRASH = """
import os, sys
from plasmid.hub.store import revisions
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Add
from plasmid.hub.settings import HubSettings

made = revisions.publish

def then_die(*arguments, **options):
    made(*arguments, **options)
    os.kill(os.getpid(), 9)

with HubSettings.from_environment().open() as hub:
    ann = hub.accounts.create_user("ann")
    repo = hub.registry.create(RepoId("ann", "x"), by=ann)
    blob = hub.blobs.put(b"one")
    hub.registry.keep(blob)
    revisions.publish = then_die
    hub.registry.commit(repo, "main", [Add("a", blob.sha256)], title="t", by=ann)
"""


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubSettings:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    for name in ("DATABASE_URL", "BLOBS_URL", "URL"):
        monkeypatch.delenv(f"PLASMID_HUB_{name}", raising=False)
    return HubSettings.from_environment()


def certified(folder: Path, *names: str) -> Tls:
    """Write a certificate for loopback and *names*, and its key."""
    key, now = generate_private_key(SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOCAL)), *map(x509.DNSName, names)]),
            critical=False,
        )
        .sign(key, SHA256())
    )
    tls = Tls(folder / "hub.pem", folder / "hub.key.pem")
    tls.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    tls.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tls


def fetched(url: str, context: ssl.SSLContext | None = None) -> bytes:
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        return bytes(answer.read())


def test_plain_on_loopback_one_hub_a_folder_one_a_port(settings: HubSettings, tmp_path: Path) -> None:
    with serving(settings, host=LOCAL, port=0, tls=None) as url:
        assert fetched(f"{url}/api/models") == b"[]"
        with refusal("hub.in_use"), serving(settings, host=LOCAL, port=0, tls=None):
            pass
        other = HubSettings.from_environment(tmp_path / "other")
        port = int(url.rpartition(":")[2])
        with refusal("hub.port_taken"), serving(other, host=LOCAL, port=port, tls=None):
            pass
    with pytest.raises(OSError, match="refused"):
        fetched(url)
    with serving(settings, host=LOCAL, port=port, tls=None) as again:
        assert again == url


def test_with_tls(settings: HubSettings, tmp_path: Path) -> None:
    tls = certified(tmp_path)
    with serving(settings, host=LOCAL, port=0, tls=tls) as url:
        assert url.startswith("https://")
        assert fetched(f"{url}/api/models", ssl.create_default_context(cafile=str(tls.certificate))) == b"[]"


def test_at_all_addresses_clients_use_a_name_of_the_certificate(tmp_path: Path) -> None:
    certificate = certified(tmp_path, "*.example.org", "hub.example.org").certificate
    assert reached("https://0.0.0.0:18443", certificate) == "https://hub.example.org:18443"
    assert reached("https://127.0.0.1:18443", certificate) == "https://127.0.0.1:18443"
    assert reached("https://10.0.0.7:18443", certificate) == "https://hub.example.org:18443"
    assert reached("http://127.0.0.1:8080", None) == "http://127.0.0.1:8080"


def test_a_hub_whose_address_does_not_follow_is_not_served(settings: HubSettings, tmp_path: Path) -> None:
    tls = certified(tmp_path, "*.example.org")
    assert reached("https://[::]:443", tls.certificate) is None
    with refusal("hub.url"), serving(settings, host="0.0.0.0", port=0, tls=tls):
        pass
    known = replace(settings, url="https://hub.example.org")
    with serving(known, host="0.0.0.0", port=0, tls=tls) as url:  # control
        assert url == "https://hub.example.org"


def test_what_is_no_certificate_is_told(settings: HubSettings, tmp_path: Path) -> None:
    tls = certified(tmp_path)
    with refusal("hub.tls"), serving(settings, host=LOCAL, port=0, tls=Tls(tls.key, tls.certificate)):
        pass
    with serving(settings, host=LOCAL, port=0, tls=None):
        pass


def test_the_folder_of_a_hub_is_its_operators(settings: HubSettings) -> None:
    with settings.open():
        assert settings.folder.stat().st_mode & 0o777 == 0o700


def test_killed_in_the_middle_of_a_commit_nothing_is_published(settings: HubSettings) -> None:
    paths = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", CRASH], env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert done.returncode == -9
    with settings.open() as hub:
        repo = hub.registry.get(RepoId("ann", "x"))
        head = hub.registry.resolve(repo, "main")
        assert (head.parent, hub.registry.tree(head)) == (None, [])
        assert hub.registry.count_history(head) == 1
        assert [size for _, size, _ in hub.blobs.stored()] == [3]
