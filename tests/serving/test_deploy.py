"""The endpoint on a real Ray Serve: the same application, behind Ray's proxy."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from plasmid.adapters.predict import predict
from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import new_token
from plasmid.endpoint.service import Settings
from plasmid.serving.deploy import address, running
from support.tiny.served import ROWS, write


def test_who_listens_on_every_address_is_called_by_a_name(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scores")])
    names = x509.SubjectAlternativeName([x509.DNSName("*.example.org"), x509.DNSName("scores.example.org")])
    began = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, began, began + timedelta(1), [])
    chain = tmp_path / "chain.pem"
    chain.write_bytes(made.add_extension(names, critical=False).sign(key, None).public_bytes(Encoding.PEM))
    tls = (chain, tmp_path / "key.pem")
    assert address("0.0.0.0", 8443, tls) == "https://scores.example.org:8443"
    assert address("10.0.0.7", 8443, tls) == "https://10.0.0.7:8443"
    assert address("::", 80, None) == f"http://{socket.gethostname()}:80"
    assert address("::1", 80, None) == "http://[::1]:80"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own fields are declared the old way
def test_two_replicas_answer_as_one_adapter_alone_does(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "a", tiny["bert"], "small")
    alone = predict(folder, ROWS, device="cpu")
    tokens = tmp_path / "tokens"
    headers = {"Authorization": f"Bearer {new_token(tokens, 'ana')}"}
    settings = Settings(base="tiny-bert", adapters={"a": str(folder)}, pinned=("a",), device="cpu")
    with (
        running(settings, tokens=tokens, replicas=2) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        assert client.get("/ready").status_code == 200
        assert client.get("/v1/models").status_code == 401

        def ask(sequence: str) -> list[float]:
            answer = client.post("/v1/predict", json={"model": "a", "input": sequence}, headers=headers)
            assert "leave the caller" in answer.headers["x-plasmid-inputs"]
            return list(answer.json()["data"][0]["probabilities"].values())

        with ThreadPoolExecutor(12) as threads:
            found = list(threads.map(ask, ROWS["sequence"] * 4))
        missing = client.post("/v1/predict", json={"model": "no/such", "input": "CAS"}, headers=headers)
    said = "".join(capfd.readouterr())
    assert "Serve" not in said, "Ray's own lines are not for a user's screen"
    assert "(raylet)" not in said
    np.testing.assert_allclose(found, np.tile(alone, (4, 1)), atol=1e-5)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "adapter_not_found")
