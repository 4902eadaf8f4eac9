"""A live hub on PostgreSQL, and with its files on S3: stock clients, races, and what a crash leaves."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from plasmid.hub.store.names import RepoId
from support.hub.hub_requests import CARD, WEIGHTS, batch, client, commit, lines
from support.hub.hub_server import LiveHub, served
from support.servers import s3_server
from support.servers.postgres_server import Postgres

LARGE = Random(0).randbytes(5 * 2**20).hex().encode()
"""More than one part of an upload to S3."""


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.S3]:
    with s3_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def stored(s3: s3_server.S3) -> Iterator[str]:
    """The URL of a bucket; this process may use it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield f"s3://{s3.bucket()}/hub"


@pytest.fixture(scope="module")
def apart(postgres: Postgres, stored: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with nothing on its own disk: PostgreSQL and S3."""
    url = postgres.database(f"live_{secrets.token_hex(4)}")
    with served(tmp_path_factory.mktemp("hub"), database_url=url, blobs_url=stored) as live:
        live.user("ada")
        live.user("eve")
        yield live


@pytest.fixture
def ada(apart: LiveHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HfApi:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return HfApi(endpoint=apart.url, token=apart.tokens["ada"])


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def names_in(live: LiveHub) -> set[str]:
    """Return the digests of what lies in the store."""
    return {name for name, _, _ in live.hub.blobs.stored()}


def aside(live: LiveHub) -> list[str]:
    """Return what lies in the store under no digest."""
    blobs = live.hub.blobs
    return [name for name in blobs._files.find(blobs._root) if "/sha256/" not in name]


def test_a_stock_client_creates_uploads_finds_and_downloads(
    ada: HfApi, apart: LiveHub, tmp_path: Path
) -> None:
    assert apart.hub.engine.dialect.name == "postgresql"
    ada.create_repo("ada/model", private=True)
    files = {"README.md": CARD.encode(), "model.safetensors": WEIGHTS, "data.txt": LARGE}
    ada.create_commit("ada/model", [add(*one) for one in files.items()], commit_message="all of it")
    assert [one.id for one in ada.list_models(search="mod")] == ["ada/model"]
    assert list(HfApi(endpoint=apart.url, token=apart.tokens["eve"]).list_models(search="mod")) == []
    folder = snapshot_download(
        "ada/model", endpoint=apart.url, token=apart.tokens["ada"], cache_dir=tmp_path / "cache"
    )
    found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    assert found == files
    assert aside(apart) == []


@pytest.fixture(scope="module")
def ranged(apart: LiveHub) -> str:
    """A repository with a large file."""
    with client(apart, "ada") as web:
        web.post("/api/repos/create", json={"name": "range"})
        commit(web, "ada/range", {"large.txt": LARGE})
    return "ada/range"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=8388600-8388620", 8388600, 8388621),
        ("bytes=-7", len(LARGE) - 7, len(LARGE)),
    ],
)
def test_a_range_of_a_file_on_s3(apart: LiveHub, ranged: str, asked: str, start: int, end: int) -> None:
    with client(apart, "ada") as web:
        answer = web.get(f"/{ranged}/resolve/main/large.txt", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, LARGE[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(LARGE)}"


def test_an_upload_by_lfs_comes_whole_or_not_at_all(apart: LiveHub) -> None:
    with client(apart, "ada") as web:
        web.post("/api/repos/create", json={"name": "lfs"})
        before = names_in(apart)
        said = batch(web, "ada/lfs", LARGE[::-1])
        link = said["actions"]["upload"]["href"]
        assert web.put(link, content=LARGE).json()["code"] == "hub.upload_differs"
        assert (names_in(apart), aside(apart)) == (before, [])
        assert web.put(link, content=LARGE[::-1]).status_code == 200
        assert names_in(apart) == before | {said["oid"]}


def test_a_client_that_goes_away_in_the_middle_publishes_and_leaves_nothing(apart: LiveHub) -> None:
    with client(apart, "ada") as web:
        web.post("/api/repos/create", json={"name": "broken"})
        head = web.get("/api/models/ada/broken").json()["sha"]
        before = names_in(apart)
        body = lines({"a.txt": b"whole", "large.txt": LARGE[:-1]})

        def cut() -> Iterator[bytes]:
            yield body[: len(body) - 1000]
            raise ConnectionAbortedError

        with pytest.raises(ConnectionAbortedError):
            web.post("/api/models/ada/broken/commit/main", content=cut())
        assert web.get("/api/models/ada/broken").json()["sha"] == head
        assert web.get("/api/models?search=broken").json() == []
    assert len(names_in(apart) - before) <= 1  # a.txt, without a name in any revision, until the next collect
    assert [name for name in aside(apart) if "/partial/" not in name] == []


CRASH = """
import os, sys
from pathlib import Path
from plasmid.hub.store import blobs
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Add
from plasmid.hub.settings import HubSettings

def die(*_):
    os.kill(os.getpid(), 9)

with HubSettings.from_environment(Path(sys.argv[1])).open() as hub:
    ada = hub.accounts.get("ada")
    repo = hub.registry.create(RepoId("ada", sys.argv[2]), by=ada)
    if sys.argv[2] == "while-written":
        with hub.blobs.writing() as writer:
            writer.write(b"x" * 9 * 2**20)
            die()
    if sys.argv[2] == "before-it-is-named":
        blobs.BlobStore._move = die
    blob = hub.blobs.put(b"never seen")
    hub.registry.keep(blob)
    from plasmid.hub.store import revisions
    made = revisions.publish
    revisions.publish = lambda *a, **k: (made(*a, **k), die())
    hub.registry.commit(repo, "main", [Add("a", blob.sha256)], title="t", by=ada)
"""


@pytest.mark.parametrize(
    "when",
    [
        "while-written",
        pytest.param("before-it-is-named", marks=pytest.mark.slow),
        "before-the-transaction-ends",
    ],
)
def test_a_hub_that_is_killed_leaves_nothing_half_published(
    apart: LiveHub, stored: str, tmp_path: Path, when: str
) -> None:
    before = names_in(apart)
    settings = apart.hub.settings
    told = {"PLASMID_HUB_DATABASE_URL": settings.database_url, "PLASMID_HUB_BLOBS_URL": stored}
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path), when],
        env=os.environ | told | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    repo = apart.hub.registry.get(RepoId("ada", when))
    head = apart.hub.registry.resolve(repo, "main")
    assert (head.parent, apart.hub.registry.tree(head)) == (None, [])
    new = names_in(apart) - before
    assert len(new) == (1 if when == "before-the-transaction-ends" else 0)  # whole, and in no revision


# -- races -----------------------------------------------------------------------------------------


def test_two_uploads_that_start_from_one_head_do_not_both_win(ada: HfApi) -> None:
    ada.create_repo("ada/race")
    head = ada.model_info("ada/race").sha

    def upload(number: int) -> str:
        try:
            operations = [add("README.md", CARD.encode()), add(f"{number}.txt", b"%d" % number)]
            return str(
                ada.create_commit(
                    "ada/race", operations, commit_message=f"by {number}", parent_commit=head
                ).oid
            )
        except HfHubHTTPError as error:
            return str(error.response.status_code)

    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(upload, range(4)))
    assert sorted(said, key=len)[:3] == ["412"] * 3
    (winner,) = (number for number, one in enumerate(said) if len(one) == 40)
    assert ada.list_repo_files("ada/race") == [f"{winner}.txt", "README.md"]
    assert [one.title for one in ada.list_repo_commits("ada/race")] == [f"by {winner}", "initial commit"]


def test_uploads_that_name_no_parent_all_land(ada: HfApi) -> None:
    ada.create_repo("ada/land")

    def upload(number: int) -> None:
        ada.create_commit("ada/land", [add(f"{number}.txt", b"%d" % number)], commit_message="m")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(upload, range(6)))
    assert ada.list_repo_files("ada/land") == [f"{number}.txt" for number in range(6)]
    assert len(ada.list_repo_commits("ada/land")) == 7


def test_one_of_those_that_create_a_repository_at_once_makes_it(apart: LiveHub) -> None:
    def create(_: int) -> int:
        with client(apart, "ada") as web:
            return web.post("/api/repos/create", json={"name": "Same"}).status_code

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(create, range(6))) == [200] + [409] * 5
    with client(apart, "ada") as web:
        assert web.post("/api/repos/create", json={"name": "same"}).status_code == 409
        assert len(web.get("/api/models/ada/same/commits/main").json()) == 1


def test_a_bucket_that_is_not_there_is_told(tmp_path: Path, stored: str) -> None:
    with (
        served(tmp_path, blobs_url=f"{stored.rpartition('/')[0]}-absent/hub") as live,
        client(live, live.user("ada") and "ada") as web,
    ):
        web.post("/api/repos/create", json={"name": "m"})
        answer = web.post("/api/models/ada/m/commit/main", content=lines({"a.txt": b"x"}))
        assert (answer.status_code, answer.json()["code"]) == (400, "storage.unwritable")
