"""Two servers of one hub, as behind a proxy that sends each request to another: they share a database."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from plasmid.hub.accounts.keys import hub_key
from plasmid.hub.store.database import open_hub_engine
from plasmid.hub.store.migrations import upgrade
from plasmid.hub.store.tables import ArrivalRow
from support.hub.hub_requests import CARD, WEIGHTS, batch, client, lines
from support.hub.hub_server import LiveHub, served
from support.servers.postgres_server import Postgres

SHA = hashlib.sha256(WEIGHTS).hexdigest()
LARGE = json.dumps({"key": "lfsFile", "value": {"path": "w.safetensors", "oid": SHA, "size": len(WEIGHTS)}})


@pytest.fixture(scope="module")
def two(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, LiveHub]]:
    """Two servers with nothing in common but a database and a store; Ada is known to both."""
    home = tmp_path_factory.mktemp("several")
    url = postgres.database(f"several_{secrets.token_hex(4)}")
    shared = {"database_url": url, "blobs_url": str(home / "blobs")}
    with served(home / "a", **shared) as one, served(home / "b", **shared) as other:
        other.tokens["ada"] = one.user("ada")
        yield one, other


def test_an_upload_goes_from_process_to_process(two: tuple[LiveHub, LiveHub]) -> None:
    with client(two[0], "ada") as first, client(two[1], "ada") as second:
        assert first.post("/api/repos/create", json={"name": "spread"}).status_code == 200
        repo = "ada/spread"
        link = httpx.URL(batch(first, repo, WEIGHTS)["actions"]["upload"]["href"]).raw_path.decode()
        refused = second.post(f"/api/models/{repo}/commit/main", content=lines({}) + LARGE.encode())
        assert (refused.status_code, refused.json()["code"]) == (400, "hub.not_uploaded")
        assert second.put(link.replace(SHA, "0" * 64), content=WEIGHTS).status_code == 403
        assert second.put(link, content=WEIGHTS).status_code == 200
        said = {"oid": SHA, "size": len(WEIGHTS)}
        assert first.post(f"/api/models/{repo}/uploads/verify", json=said).json() == said
        body = lines({"README.md": CARD.encode()}) + LARGE.encode()
        made = first.post(f"/api/models/{repo}/commit/main", content=body)
        assert made.status_code == 200, made.text
        assert second.get(f"/{repo}/resolve/main/w.safetensors").content == WEIGHTS
        assert [one["id"] for one in second.get("/api/models?search=spread").json()] == [repo]


def test_a_log_in_holds_for_every_process(two: tuple[LiveHub, LiveHub]) -> None:
    with client(two[0], "ada") as ada, client(two[0], None) as one, client(two[1], None) as other:
        ada.post("/api/repos/create", json={"name": "hidden", "private": True})
        begun = one.post("/login", data={"token": two[0].tokens["ada"]})
        cookie = begun.headers["set-cookie"].partition(";")[0]
        page = {"headers": {"Accept": "text/html", "Cookie": cookie}}
        assert other.get("/ada/hidden", **page).status_code == 200
        assert other.get("/ada/hidden").status_code == 404


def test_bytes_that_came_are_forgotten_with_their_link_and_their_repository(tmp_path: Path) -> None:
    with served(tmp_path) as live, client(live, live.user("ada") and "ada") as web:
        engine = live.hub.engine

        def known() -> list[str]:
            with engine.connect() as connection:
                return list(connection.scalars(select(ArrivalRow.sha256)))

        for name in ("one", "two"):
            web.post("/api/repos/create", json={"name": name})
        links = [batch(web, f"ada/{name}", WEIGHTS)["actions"]["upload"]["href"] for name in ("one", "two")]
        for link in (links[0], links[0], links[1]):
            assert web.put(link, content=WEIGHTS).status_code == 200
        assert known() == [SHA, SHA]
        web.request("DELETE", "/api/repos/delete", json={"name": "one"})
        assert known() == [SHA]
        gone = web.put(links[0], content=WEIGHTS)
        assert (gone.status_code, gone.json()["code"]) == (403, "hub.link")


def test_processes_that_start_together_make_one_key(database_url: str) -> None:
    engine = open_hub_engine(database_url)
    upgrade(engine)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(hub_key(engine))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert set(found) == {hub_key(engine)}
    assert len(found[0]) == 32
    engine.dispose()
