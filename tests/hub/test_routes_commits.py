"""Commits and large files: all or nothing, and nobody gets bytes that are not theirs."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from plasmid.hub.accounts.limits import Limits
from support.hub.hub_requests import CARD, WEIGHTS, batch, client, commit, lines
from support.hub.hub_server import LiveHub, served

# -- commits -------------------------------------------------------------------------------------------------


def test_one_of_two_commits_on_the_same_parent_wins(web: httpx.Client, live: LiveHub, repo: str) -> None:
    parent = web.get(f"/api/models/{repo}").json()["sha"]
    found: list[int] = []

    def race(number: int) -> None:
        with client(live, "ada") as one:
            body = lines({f"{number}.txt": b"x"}, parentCommit=parent)
            found.append(one.post(f"/api/models/{repo}/commit/main", content=body).status_code)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200, 412, 412, 412, 412, 412]
    assert len(web.get(f"/api/models/{repo}").json()["siblings"]) == 3


@pytest.mark.parametrize(
    ("last", "status", "code"),
    [
        (lines({"evil.py": b"import os"}).splitlines()[1], 400, "hub.unsafe_file"),
        (
            b'{"key": "file", "value": {"path": "../x.txt", "content": "", "encoding": "utf-8"}}\n',
            400,
            "hub.path",
        ),
        (b'{"key": "deletedFile", "value": {"path": "absent.txt"}}\n', 404, "hub.entry_missing"),
        (
            b'{"key": "lfsFile", "value": {"path": "x.txt", "oid": "' + b"0" * 64 + b'"}}\n',
            400,
            "hub.not_uploaded",
        ),
        (b'{"key": "exec", "value": {"path": "x.txt"}}\n', 400, "hub.malformed"),
        (b"{not json\n", 400, "hub.malformed"),
    ],
)
def test_a_commit_that_fails_in_its_last_line_publishes_nothing(
    last: bytes, status: int, code: str, web: httpx.Client, repo: str
) -> None:
    before = web.get(f"/api/models/{repo}").json()
    answer = web.post(f"/api/models/{repo}/commit/main", content=lines({"good.txt": b"x"}) + last)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert web.get(f"/api/models/{repo}").json() == before


def test_an_upload_that_ends_early_publishes_and_leaves_nothing(
    live: LiveHub, web: httpx.Client, repo: str
) -> None:
    before = web.get(f"/api/models/{repo}").json()
    data = hashlib.shake_256(b"cut").digest(1_000_000)
    body = lines({"long.txt": base64.b85encode(data)})
    host, port = live.url[7:].split(":")
    head = f"POST /api/models/{repo}/commit/main HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer {live.tokens['ada']}\r\n\r\n"
    with socket.create_connection((host, int(port))) as one:
        one.sendall(head.encode() + body[: len(body) // 2])
    assert wait(lambda: not leftovers(live))
    assert web.get(f"/api/models/{repo}").json() == before
    assert not live.hub.blobs.has(hashlib.sha256(base64.b85encode(data)).hexdigest())


def leftovers(live: LiveHub) -> list[Path]:
    """Return the files of uploads that are on their way: whatever in the store is not named by its digest."""
    folder = live.hub.settings.folder / "blobs"
    return [path for path in folder.rglob("*") if path.is_file() and len(path.name.replace("-", "")) != 64]


def wait(holds: Any) -> bool:
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.02)
    return bool(holds())


def test_a_card_without_a_licence_is_warned_about_or_refused(
    tmp_path: Path, web: httpx.Client, repo: str
) -> None:
    bare = {"README.md": b"---\ntags: [a]\n---\n# Hi\n", "model.safetensors": WEIGHTS}
    answer = web.post(f"/api/models/{repo}/commit/main", content=lines(bare))
    assert answer.status_code == 200
    assert "the card says no licence" in answer.headers["x-hf-warning"]
    warned = web.post("/api/validate-yaml", json={"content": bare["README.md"].decode(), "repoType": "model"})
    assert (warned.status_code, len(warned.json()["warnings"]), warned.json()["errors"]) == (200, 1, [])
    with served(tmp_path, limits=Limits(licence="require")) as strict:
        strict.user("ada")
        with client(strict, "ada") as one:
            one.post("/api/repos/create", json={"name": "m"})
            refused = one.post("/api/models/ada/m/commit/main", content=lines(bare))
            assert (refused.status_code, refused.json()["code"]) == (400, "hub.card")
            assert "license: apache-2.0" in refused.headers["x-error-message"]
            told = one.post("/api/validate-yaml", json={"content": bare["README.md"].decode()})
            assert (told.status_code, len(told.json()["errors"])) == (400, 1)
            text = one.post(
                "/api/validate-yaml", json={"content": "---\na: [\n---\n"}, headers={"Accept": "text/plain"}
            )
            assert (text.status_code, text.headers["content-type"]) == (400, "text/plain; charset=utf-8")
            commit(one, "ada/m", {**bare, "README.md": CARD.encode()})


# -- large files ---------------------------------------------------------------------------------------------


def large_line(path: str, data: bytes) -> bytes:
    value = {"path": path, "algo": "sha256", "oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return lines({}) + json.dumps({"key": "lfsFile", "value": value}).encode()


def test_a_link_takes_its_bytes_without_a_token_and_only_those(
    live: LiveHub, web: httpx.Client, repo: str
) -> None:
    data = WEIGHTS[:-1] + b"A"
    link = batch(web, repo, data)["actions"]["upload"]["href"]
    with client(live, None) as nobody:
        other = nobody.put(link, content=data[:-1] + b"B")
        assert (other.status_code, other.json()["code"]) == (400, "hub.upload_differs")
        assert nobody.put(link, content=data + b"x").status_code == 400
        assert nobody.put(link, content=data[:-1]).status_code == 400
        assert nobody.put(link, content=iter([data, b"x"])).status_code in (400, 413)
        sha256 = hashlib.sha256(data).hexdigest()
        assert not live.hub.blobs.has(sha256)
        assert not leftovers(live)
        assert (
            web.post(f"/api/models/{repo}/commit/main", content=large_line("b.safetensors", data)).status_code
            == 400
        )
        assert nobody.put(link, content=data).status_code == 200
    verified = web.post(f"/api/models/{repo}/uploads/verify", json={"oid": sha256, "size": len(data)})
    assert verified.status_code == 200
    assert (
        web.post(f"/api/models/{repo}/commit/main", content=large_line("b.safetensors", data)).status_code
        == 200
    )
    assert web.get(f"/{repo}/resolve/main/b.safetensors").content == data
    assert "actions" not in batch(web, repo, data)


@pytest.mark.parametrize("change", ["size", "until", "signature", "sha", "repo"])
def test_a_link_that_was_changed_is_void(change: str, live: LiveHub, web: httpx.Client, repo: str) -> None:
    data = WEIGHTS[:-1] + change[:1].encode()
    link = httpx.URL(batch(web, repo, data)["actions"]["upload"]["href"])
    if change in ("sha", "repo"):
        *start, key, sha256 = link.path.split("/")
        key, sha256 = (key, "0" * 64) if change == "sha" else (str(int(key) + 1), sha256)
        link = link.copy_with(path="/".join([*start, key, sha256]))
    else:
        link = link.copy_set_param(
            change, str(int(link.params[change], 16) + 1) if change != "signature" else "0" * 64
        )
    with client(live, None) as nobody:
        answer = nobody.put(link, content=data)
    assert (answer.status_code, answer.json()["code"]) == (403, "hub.link")


def test_a_link_expires(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(link_s=0.0)) as short:
        short.user("ada")
        with client(short, "ada") as web:
            web.post("/api/repos/create", json={"name": "m"})
            link = batch(web, "ada/m", WEIGHTS)["actions"]["upload"]["href"]
            time.sleep(1.1)
            answer = web.put(link, content=WEIGHTS)
            assert (answer.status_code, "expired" in answer.headers["x-error-message"]) == (403, True)


def test_knowing_the_digest_of_a_private_file_gives_nobody_the_file(live: LiveHub, web: httpx.Client) -> None:
    web.post("/api/repos/create", json={"name": "vault", "private": True})
    data = WEIGHTS[:-1] + b"Z"
    commit(web, "ada/vault", {"model.safetensors": data})
    with client(live, "eve") as eve:
        eve.post("/api/repos/create", json={"name": "copy"})
        answer = eve.post("/api/models/eve/copy/commit/main", content=large_line("model.safetensors", data))
        assert (answer.status_code, answer.json()["code"]) == (400, "hub.not_uploaded")
        assert "actions" in batch(eve, "eve/copy", data)  # not even that somebody has it
        verify = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
        assert eve.post("/api/models/eve/copy/uploads/verify", json=verify).status_code == 400
