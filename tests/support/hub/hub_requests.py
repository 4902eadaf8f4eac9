"""Requests to a hub as a client makes them, one at a time."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import httpx

from support.hub.hub_server import LiveHub

_HEADER = b'{"w":{"dtype":"U8","shape":[100],"data_offsets":[0,100]}}'
WEIGHTS = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(range(100))
SHA = hashlib.sha256(WEIGHTS).hexdigest()
CARD = "---\nlicense: mit\n---\n# Hi\n"
_MADE = iter(range(10**6))


def client(live: LiveHub, name: str | None, **headers: str) -> httpx.Client:
    """Return a client of the hub with the token of *name*, None: without one."""
    told = headers | ({"Authorization": f"Bearer {live.tokens[name]}"} if name else {})
    return httpx.Client(base_url=live.url, headers=told, trust_env=False, timeout=20)


def lines(files: dict[str, bytes], **header: Any) -> bytes:
    """Return the body of a commit of *files*."""
    said: list[Any] = [{"key": "header", "value": {"summary": "s"} | header}]
    for path, data in files.items():
        content = base64.b64encode(data).decode()
        said.append({"key": "file", "value": {"content": content, "path": path, "encoding": "base64"}})
    return b"".join(json.dumps(one).encode() + b"\n" for one in said)


def commit(web: httpx.Client, repo: str, files: dict[str, bytes], **header: Any) -> str:
    """Commit *files*, and return the commit's id."""
    answer = web.post(f"/api/models/{repo}/commit/main", content=lines(files, **header))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["commitOid"])


def new_repo(web: httpx.Client) -> str:
    """Make a repository of Ada's with a card and weights, and return its name."""
    name = f"m{next(_MADE)}"
    assert web.post("/api/repos/create", json={"name": name}).status_code == 200
    commit(web, f"ada/{name}", {"README.md": CARD.encode(), "sub/model.safetensors": WEIGHTS})
    return f"ada/{name}"


def batch(web: httpx.Client, repo: str, data: bytes, **other: Any) -> dict[str, Any]:
    """Return what the hub says to an upload of *data* by LFS; *other* changes what is announced."""
    sha256 = hashlib.sha256(data).hexdigest()
    body = {"operation": "upload", "objects": [{"oid": sha256, "size": len(data)} | other]}
    answer = web.post(f"/{repo}.git/info/lfs/objects/batch", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["objects"][0])
