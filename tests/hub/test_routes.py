"""Files, names and rights, header by header, where a stock client would hide what went wrong."""

from __future__ import annotations

import hashlib
import socket

import httpx
import pytest

from support.hub.hub_requests import CARD, SHA, WEIGHTS, client, commit, lines
from support.hub.hub_server import LiveHub

# -- files ---------------------------------------------------------------------------------------------------


def test_the_head_of_a_file_tells_its_commit_digest_and_size(web: httpx.Client, repo: str) -> None:
    sha = web.get(f"/api/models/{repo}").json()["sha"]
    weights = web.head(f"/{repo}/resolve/main/sub/model.safetensors")
    assert weights.headers["x-repo-commit"] == sha
    assert weights.headers["etag"] == weights.headers["x-linked-etag"] == f'"{SHA}"'
    assert weights.headers["content-length"] == weights.headers["x-linked-size"] == str(len(WEIGHTS))
    card = web.head(f"/{repo}/resolve/{sha}/README.md")
    git = hashlib.sha1(b"blob %d\0" % len(CARD) + CARD.encode()).hexdigest()
    assert card.headers["etag"] == f'"{git}"'
    assert "x-linked-etag" not in card.headers
    assert card.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert card.content == b""


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=150-999999", 206, slice(150, None)),
        ("bytes=0-", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("rows=1-2", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=165-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=20-10", 416, slice(0, 0)),
    ],
)
def test_a_part_of_a_file(asked: str, status: int, part: slice, web: httpx.Client, repo: str) -> None:
    answer = web.get(f"/{repo}/resolve/main/sub/model.safetensors", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, WEIGHTS[part])
    if status == 206:
        start = len(WEIGHTS) - len(answer.content) if asked == "bytes=-5" else int(asked[6:].split("-")[0])
        end = start + len(answer.content) - 1
        assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(WEIGHTS)}"
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"


def test_an_empty_file_is_served(web: httpx.Client, repo: str) -> None:
    commit(web, repo, {"empty.txt": b""})
    answer = web.get(f"/{repo}/resolve/main/empty.txt")
    assert (answer.status_code, answer.content) == (200, b"")


# -- what is missing, and who may ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/ada/absent", "RepoNotFound"),
        ("/api/models/a--b/c", "RepoNotFound"),
        ("/{repo}/resolve/absent/README.md", "RevisionNotFound"),
        ("/{repo}/resolve/main/absent.md", "EntryNotFound"),
        ("/api/models/{repo}/tree/main/absent", "EntryNotFound"),
    ],
)
def test_clients_are_told_by_a_code_what_is_missing(
    path: str, code: str, web: httpx.Client, repo: str
) -> None:
    answer = web.get(path.format(repo=repo))
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, code)
    assert answer.headers["x-error-message"] == answer.json()["error"]
    head = web.head(path.format(repo=repo))
    if code == "EntryNotFound" and "resolve" in path:
        assert head.headers["x-repo-commit"] == web.get(f"/api/models/{repo}").json()["sha"]


@pytest.mark.promise("private-as-absent")
def test_a_private_repository_is_answered_as_one_that_is_not_there(live: LiveHub, web: httpx.Client) -> None:
    web.post("/api/repos/create", json={"name": "secret", "visibility": "private"})
    for who in ("eve", None):
        with client(live, who) as other:
            for path in (
                "/api/models/ada/{}",
                "/ada/{}/resolve/main/README.md",
                "/ada/{}",
                "/api/models/ada/{}/refs",
            ):
                there, absent = (other.get(path.format(name)) for name in ("secret", "nothin"))
                assert (there.status_code, there.text.replace("secret", "nothin")) == (404, absent.text)
            assert "secret" not in other.get("/api/models?author=ada").text
            assert "secret" not in other.get("/models").text


def test_a_wrong_token_is_refused_even_where_none_is_needed(live: LiveHub, repo: str) -> None:
    for shown in ("Bearer hf_" + "x" * 34, "Basic abc", "hf_x", "Bearer x y"):
        with client(live, None, Authorization=shown) as web:
            for path in (
                "/api/whoami-v2",
                f"/api/models/{repo}",
                f"/{repo}/resolve/main/README.md",
                f"/{repo}",
            ):
                answer = web.get(path)
                assert answer.status_code == 401
                assert answer.headers["x-error-message"] == "Invalid credentials in Authorization header"


def test_who_may_only_read_cannot_write(live: LiveHub, repo: str) -> None:
    with client(live, "eve") as eve, client(live, None) as nobody:
        for web, status in ((eve, 403), (nobody, 401)):
            answers = [
                web.post(f"/api/models/{repo}/commit/main", content=lines({"a.txt": b"x"})),
                web.post(f"/api/models/{repo}/preupload/main", json={"files": []}),
                web.post(f"/{repo}.git/info/lfs/objects/batch", json={"operation": "upload", "objects": []}),
                web.post(f"/api/models/{repo}/tag/main", json={"tag": "v1"}),
                web.post(f"/api/models/{repo}/branch/b", json={}),
                web.put(f"/api/models/{repo}/settings", json={"private": True}),
                web.request("DELETE", "/api/repos/delete", json={"organization": "ada", "name": repo[4:]}),
                web.get(f"/api/models/{repo}/user-access-request/pending"),
                web.get(f"/api/models/{repo}/auth-check/write"),
            ]
            assert [answer.status_code for answer in answers] == [status] * len(answers)


def test_a_token_to_read_with_cannot_write_for_its_owner(live: LiveHub, repo: str) -> None:
    secret = live.hub.accounts.create_token("ada", "reader", scope="read")[1]
    with client(live, None, Authorization=f"Bearer {secret}") as web:
        answer = web.post(f"/api/models/{repo}/commit/main", content=lines({"a.txt": b"x"}))
        assert answer.status_code == 403
        assert "with this token, which is for: read" in answer.headers["x-error-message"]


# -- addresses -----------------------------------------------------------------------------------------------


def test_an_encoded_slash_belongs_to_its_segment(web: httpx.Client, repo: str) -> None:
    assert web.post(f"/api/models/{repo}/branch/feature%2Fx", json={}).status_code == 201
    assert web.get(f"/{repo}/resolve/feature%2Fx/README.md").text == CARD
    tree = web.get(f"/api/models/{repo}/tree/feature%2fx/sub")
    assert [one["path"] for one in tree.json()] == ["sub/model.safetensors"]
    assert web.get(f"/{repo}/resolve/feature/x/README.md").headers["x-error-code"] == "RevisionNotFound"
    assert web.request("DELETE", f"/api/models/{repo}/branch/feature%2Fx").status_code == 200


@pytest.mark.parametrize("path", ["/a%1fb/c", "/%ff/x", "/api/models/a%1Fb/c"])
def test_an_address_with_control_characters_is_refused(path: str, live: LiveHub) -> None:
    assert raw(live, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 400"
    )


@pytest.mark.parametrize(
    "path", ["../README.md", "sub/../README.md", "/etc/passwd", "%2e%2e/README.md", "sub%2F..%2FREADME.md"]
)
def test_a_name_never_becomes_a_path(path: str, live: LiveHub, repo: str) -> None:
    request = f"GET /{repo}/resolve/main/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert raw(live, request.encode()).startswith(b"HTTP/1.1 404")


def raw(live: LiveHub, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(live.url.rsplit(":", 1)[1])), timeout=20) as one:
        one.sendall(request)
        return b"".join(iter(lambda: one.recv(65536), b""))


def test_no_answer_leads_to_another_host(live: LiveHub, web: httpx.Client, repo: str) -> None:
    for path in (
        f"/{repo}/resolve/main/README.md",
        f"/{repo}",
        f"/api/models/{repo}",
        "/api/agent-harnesses",
    ):
        assert "location" not in web.get(path).headers
    xet = web.get(f"/api/models/{repo}/xet-write-token/main")
    assert xet.headers["location"].startswith(live.url + "/api/")
    assert "HF_HUB_DISABLE_XET=1" in xet.headers["location"]
    said = web.get(xet.headers["location"])
    assert (said.status_code, said.json()["code"]) == (400, "hub.xet")
