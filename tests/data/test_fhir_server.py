"""A FHIR server page by page, and what goes wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plasmid.core.errors import DataError
from plasmid.data.fhir import server as reader
from plasmid.data.fhir.loading import TYPES, Deadline
from plasmid.data.fhir.tally import Tally
from plasmid.data.settings import FhirConnection
from plasmid.data.sources.fhir import FhirSource, open_fhir
from support.hospital.fhir_data import condition, filled, observation, patient, rows, told
from support.servers.fhir_server import FhirServer, serving

CANARY = "CANARY-7731"


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    """Twenty-five people with a condition each, ten a page."""
    people = [patient(f"p{number}") for number in range(25)]
    events = [condition(f"c{number}", subject={"reference": f"Patient/p{number}"}) for number in range(25)]
    server = FhirServer([*people, *events])
    with serving(server):
        yield server


def open_server(fhir: FhirServer, folder: Path, limit_s: float = 30, **more: Any) -> FhirSource:
    return open_fhir(FhirConnection(kind="fhir", url=fhir.base, **more), folder, limit_s=limit_s)


def refused(fhir: FhirServer, folder: Path, code: str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        open_server(fhir, folder, **more)
    assert caught.value.code == code
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value.message


def test_every_page_of_every_type_is_read(fhir: FhirServer, tmp_path: Path) -> None:
    fhir.absent = {"MedicationStatement"}
    source = open_server(fhir, tmp_path)
    assert filled(source) == {"person": 25, "condition": 25}
    assert len(rows(source, "SELECT DISTINCT person FROM condition")) == 25
    assert len(fhir.asked) == len(TYPES) + 4
    assert fhir.asked[:2] == ["/fhir/Patient?_count=500", "/fhir/Patient?_count=500&offset=10"]
    assert told(source) == ["MedicationStatement, which the server does not have: 1"]
    assert source.locate("condition", 24) == "resource 49 (Condition page 3, entry 5)"
    source.close()


def test_a_busy_server_is_waited_for_as_it_asks_and_not_for_ever(fhir: FhirServer) -> None:
    slept: list[float] = []

    def read() -> int:
        with reader.Server(fhir.base, None, Deadline(1000), sleep=slept.append) as server:
            return sum(1 for _ in server.read(["Patient"], Tally()))

    fhir.trouble = [(429, {"Retry-After": "7"}, b""), (503, {}, b""), (503, {"Retry-After": "999999"}, b"")]
    assert read() == 25
    assert slept == [7.0, 1.0, 300.0]
    fhir.trouble = [(503, {}, CANARY.encode())] * 6
    with pytest.raises(DataError, match="answered Patient with status 503"):
        read()
    assert len(fhir.asked) == 6 + 6


def test_waiting_ends_at_the_deadline(fhir: FhirServer, tmp_path: Path) -> None:
    fhir.trouble = [(429, {"Retry-After": "60"}, b"")]
    assert refused(fhir, tmp_path, "data.source_timeout", limit_s=0.3) == (
        "The resources could not be read within 0.3 seconds."
    )


@pytest.mark.parametrize(
    "link",
    ["http://169.254.169.254/fhir/Patient?{offset}", "https://{base}/x", "file:///etc/passwd",
     "//example.org/x", "http://user@127.0.0.1/x", "http://[", "ftp://x"],
)  # fmt: skip
def test_a_next_page_elsewhere_is_refused(fhir: FhirServer, tmp_path: Path, link: str) -> None:
    fhir.next_link = f"{link}#{CANARY}"
    assert "leads to another origin" in refused(fhir, tmp_path, "data.source_down")
    assert len(fhir.asked) == 1


def test_a_relative_link_is_followed_and_a_circle_of_pages_ends(fhir: FhirServer, tmp_path: Path) -> None:
    fhir.next_link = "/fhir/{kind}?_count=500&offset={offset}"
    open_server(fhir, tmp_path).close()
    fhir.next_link = "{base}/{kind}?_count=500&offset=0"
    assert "go round in a circle" in refused(fhir, tmp_path, "data.source_down")


def test_only_the_status_of_an_error_is_told(fhir: FhirServer, tmp_path: Path) -> None:
    outcome = f'{{"resourceType": "OperationOutcome", "issue": [{{"diagnostics": "{CANARY}"}}]}}'.encode()
    for status, code in ((500, "data.source_down"), (403, "data.source_denied"), (404, "data.source_down"),
                         (302, "data.source_down")):  # fmt: skip
        fhir.trouble = [(status, {"Location": f"http://example.org/{CANARY}"}, outcome)]
        assert f"status {status}" in refused(fhir, tmp_path, code)
    fhir.trouble = [(200, {}, b'{"resourceType": "Bundle", "entry": [' + CANARY.encode())]
    assert "no JSON: 1 (first at Patient page 1)" in refused(fhir, tmp_path, "data.fhir_damaged")


def test_the_token_is_sent_and_kept_to_its_owner(fhir: FhirServer, tmp_path: Path) -> None:
    fhir.token = CANARY
    path = tmp_path / "token"
    path.write_text(f"{CANARY}\nsecond line\n")
    path.chmod(0o644)
    assert refused(fhir, tmp_path, "data.source_denied", token_file="token") == (
        "The token file token is not used: others may read it."
    )
    path.chmod(0o600)
    open_server(fhir, tmp_path, token_file="token").close()
    assert "status 401" in refused(fhir, tmp_path, "data.source_denied")
    path.write_text(f"{CANARY} two words\n")
    assert "no token" in refused(fhir, tmp_path, "data.source_denied", token_file="token")


def test_a_page_beyond_the_limit_and_a_server_that_is_gone_are_told(
    fhir: FhirServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 2**20)
    fhir.trouble = [(200, {}, b" " * 2**21)]
    assert refused(fhir, tmp_path, "data.source_down") == "A page of Patient has more than 1 MiB."
    broken = httpx.MockTransport(lambda request: (_ for _ in ()).throw(httpx.ConnectError(CANARY)))
    with (
        reader.Server(fhir.base, None, Deadline(60), transport=broken, sleep=lambda _: None) as server,
        pytest.raises(DataError, match=r"could not be asked for Patient \(ConnectError\)") as caught,
    ):
        list(server.read(["Patient"], Tally()))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "why"),
    [("http://ehr.example/fhir", "in the clear"), ("http://127.0.0.1.example/", "in the clear"),
     ("ftp://x", "not an http"), ("https://[", "not an http"), ("https://u:CANARY-7731@x/", "a user"),
     ("https://x/?token=CANARY-7731", "a query")],
)  # fmt: skip
def test_a_base_url_without_tls_or_with_secrets_is_refused(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        open_fhir(FhirConnection(kind="fhir", url=url), tmp_path, limit_s=5)
    assert caught.value.code == "data.source_down"
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_reference_to_another_server_is_to_nobody(fhir: FhirServer, tmp_path: Path) -> None:
    fhir.resources.append(observation(subject={"reference": "https://other.example/fhir/Patient/p1"}))
    source = open_server(fhir, tmp_path)
    assert "events of nobody: their subject is no Patient here, left out: 1" in told(source)[0]
    source.close()
