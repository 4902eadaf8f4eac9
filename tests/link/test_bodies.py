"""Bodies on the coordinator's disk: whole, of the expected size, under their digest, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import PlasmidError
from plasmid.link import bodies as bodies_module
from plasmid.link.bodies import Bodies
from plasmid.secagg.samples import body_root

BODY = np.random.default_rng(0).bytes(2500)
DIGEST = body_root(BODY)
CHUNK = 1000


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bodies:
    monkeypatch.setattr(bodies_module, "CHUNK_BYTES", CHUNK)
    made = Bodies(tmp_path / "bodies")
    made.expect("run-1", len(BODY))
    return made


def send(
    bodies: Bodies,
    offset: int,
    chunk: bytes | None = None,
    *,
    total: int = len(BODY),
    digest: str = DIGEST,
    run: str = "run-1",
    site: str = "alpha",
    checksum: str | None = None,
) -> int:
    chunk = BODY[offset : offset + CHUNK] if chunk is None else chunk
    own = digest if len(chunk) == total else sha256_hex(chunk)
    return bodies.take_chunk(run, site, digest, offset, total, chunk, checksum or own)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_chunks_make_a_body(bodies: Bodies, tmp_path: Path) -> None:
    assert [send(bodies, offset) for offset in (0, 1000)] == [1000, 2000]
    assert not bodies.received("run-1", "alpha", DIGEST).exists()
    assert files(tmp_path) == [f"bodies/received/run-1/alpha.{DIGEST}.part"]
    assert send(bodies, 2000) == 2500
    assert bodies.received("run-1", "alpha", DIGEST).read_bytes() == BODY
    assert files(tmp_path) == [f"bodies/received/run-1/alpha.{DIGEST}.{kind}" for kind in ("body", "tree")]


def test_sending_again_changes_nothing(bodies: Bodies) -> None:
    for offset in (0, 0, 1000, 0, 1000, 2000, 0, 2000):
        have = send(bodies, offset)
    assert have == 2500
    assert bodies.received("run-1", "alpha", DIGEST).read_bytes() == BODY


def test_an_upload_resumes_where_it_stopped(bodies: Bodies, tmp_path: Path) -> None:
    send(bodies, 0)
    again = Bodies(tmp_path / "bodies")  # the server restarted
    again.expect("run-1", len(BODY))
    assert send(again, 2000) == 1000  # says where to go on, and takes nothing out of order
    assert send(again, 0) == 1000
    assert [send(again, offset) for offset in (1000, 2000)] == [2000, 2500]


def test_a_damaged_chunk_is_refused_and_sent_again(bodies: Bodies) -> None:
    send(bodies, 0)
    with refusal("protocol.chunk"):
        send(bodies, 1000, b"\0" * 1000, checksum=sha256_hex(BODY[1000:2000]))
    assert send(bodies, 1000) == 2000
    assert send(bodies, 2000) == 2500


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_without_its_digest_is_dropped(
    bodies: Bodies, tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if whole:
        monkeypatch.setattr(bodies_module, "CHUNK_BYTES", len(BODY))
        with refusal("protocol.chunk"):
            send(bodies, 0, b"\0" * len(BODY))
    else:
        send(bodies, 0, b"\0" * 1000)
        send(bodies, 1000)
        with refusal("protocol.chunk"):
            send(bodies, 2000)
    assert files(tmp_path) == []
    assert send(bodies, 0, BODY[:500]) == 500  # from the start


@pytest.mark.parametrize(
    ("offset", "size", "total"),
    [(0, 100, 2499), (0, 100, 2501), (0, 100, 2**40), (2000, 501, 2500), (2500, 1, 2500), (0, 1001, 2500)],
)
def test_a_size_that_is_not_expected_is_refused(
    bodies: Bodies, tmp_path: Path, offset: int, size: int, total: int
) -> None:
    with refusal("protocol.body_size"):
        send(bodies, offset, b"\0" * size, total=total)
    assert files(tmp_path) == []


def test_a_run_that_expects_nothing_takes_nothing(bodies: Bodies, tmp_path: Path) -> None:
    with refusal("protocol.body_size"):
        send(bodies, 0, run="run-2")
    bodies.drop_run("run-1")
    with refusal("protocol.body_size"):
        send(bodies, 0)
    assert files(tmp_path) == []


def test_two_sites_do_not_mix_their_chunks(bodies: Bodies) -> None:
    other = bytes(reversed(BODY))
    digest = body_root(other)
    for offset in (0, 1000, 2000):
        send(bodies, offset)
        send(bodies, offset, other[offset : offset + 1000], digest=digest, site="beta")
    # and two that send the same
    for site in ("gamma", "delta"):
        assert [send(bodies, offset, site=site) for offset in (0, 1000, 2000)] == [1000, 2000, 2500]
    assert bodies.received("run-1", "alpha", DIGEST).read_bytes() == BODY
    assert bodies.received("run-1", "beta", digest).read_bytes() == other


def test_a_site_has_one_body_of_a_run(bodies: Bodies, tmp_path: Path) -> None:
    for offset in (0, 1000, 2000):
        send(bodies, offset)
    send(bodies, 0, site="beta")
    other = bytes(reversed(BODY))
    digest = body_root(other)
    for offset in (0, 1000, 2000):
        send(bodies, offset, other[offset : offset + 1000], digest=digest)
    beta = f"bodies/received/run-1/beta.{DIGEST}.part"
    alpha = [f"bodies/received/run-1/alpha.{digest}.{kind}" for kind in ("body", "tree")]
    assert files(tmp_path) == [*alpha, beta]


@pytest.mark.parametrize(
    "bad", ["", "../x", "..", "/etc/passwd", "0" * 63, "A" * 64, "0" * 64 + "\n", "0" * 65]
)
def test_no_path_is_made_from_anything_else(bodies: Bodies, tmp_path: Path, bad: str) -> None:
    bodies.expect(bad, len(BODY))
    with refusal("protocol.malformed"):
        send(bodies, 0, digest=bad)
    with refusal("protocol.malformed"):
        bodies.published(bad)
    with refusal("protocol.malformed"):
        bodies.read_chunk(bad, 0)
    if bad in ("", "../x", "..", "/etc/passwd", "A" * 64, "0" * 64 + "\n", "0" * 65):
        with refusal("protocol.malformed"):
            send(bodies, 0, run=bad)
    assert files(tmp_path) == []


def test_a_published_body_is_read_in_chunks(bodies: Bodies) -> None:
    assert bodies.publish(BODY) == sha256_hex(BODY)
    assert bodies.publish(BODY) == sha256_hex(BODY)
    read = [bodies.read_chunk(sha256_hex(BODY), offset) for offset in (0, 1000, 2000, 2500, 9999)]
    assert [len(chunk) for chunk, _ in read] == [1000, 1000, 500, 0, 0]
    assert b"".join(chunk for chunk, _ in read) == BODY
    assert [checksum for _, checksum in read] == [sha256_hex(chunk) for chunk, _ in read]


def test_a_small_body_s_chunk_has_the_body_s_digest(bodies: Bodies) -> None:
    digest = bodies.publish(b"small")
    assert bodies.read_chunk(digest, 0) == (b"small", digest)


def test_what_is_not_there_is_said(bodies: Bodies) -> None:
    with refusal("link.no_body"):
        bodies.read_chunk(DIGEST, 0)
    for offset in (0, 1000, 2000):
        send(bodies, offset)
    with refusal("link.no_body"):  # received, but not published
        bodies.read_chunk(DIGEST, 0)


def test_a_run_s_bodies_go_with_it(bodies: Bodies, tmp_path: Path) -> None:
    bodies.expect("run-2", len(BODY))
    send(bodies, 0)
    send(bodies, 0, run="run-2")
    published = bodies.publish(b"state")
    bodies.drop_run("run-1")
    bodies.drop_run("run-1")
    bodies.drop_run("../published")
    assert files(tmp_path) == [
        f"bodies/published/{published}",
        f"bodies/received/run-2/alpha.{DIGEST}.part",
    ]


def test_a_disk_that_cannot_be_written_is_an_error(bodies: Bodies, tmp_path: Path) -> None:
    (tmp_path / "bodies").write_text("a file where the folder should be")
    with refusal("storage.unwritable"):
        send(bodies, 0)
