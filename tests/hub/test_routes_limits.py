"""Caps on files, bodies and requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.hub.accounts.limits import Buckets, Limits, TooManyRequests
from support.hub.hub_requests import WEIGHTS, batch, client, lines
from support.hub.hub_server import served

# -- caps ----------------------------------------------------------------------------------------------------


def test_a_file_above_the_cap_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(regular_bytes=1000, file_bytes=2000)) as small:
        small.user("ada")
        with client(small, "ada") as web:
            web.post("/api/repos/create", json={"name": "m"})
            modes = []
            for size in (1000, 1001, 2001):
                files = [{"path": "a.txt", "size": size, "sample": ""}]
                answer = web.post("/api/models/ada/m/preupload/main", json={"files": files})
                modes.append(
                    answer.json()["files"][0]["uploadMode"]
                    if answer.status_code == 200
                    else answer.status_code
                )
            assert modes == ["regular", "lfs", 413]
            over = web.post("/api/models/ada/m/commit/main", content=lines({"a.txt": b"x" * 1001}))
            assert (over.status_code, over.json()["code"]) == (413, "hub.too_large")
            large = batch(web, "ada/m", WEIGHTS, size=2001)
            assert large["error"] == {"code": 413, "message": "this hub takes files of at most 2000 bytes"}


def test_a_body_above_its_cap_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as live, client(live, None) as web:
        body = b'{"content": "' + b"x" * 9_000_000 + b'"}'
        assert web.post("/api/validate-yaml", content=body).status_code == 413
        assert web.post("/api/validate-yaml", content=iter([body])).status_code == 413
        assert web.post("/api/validate-yaml", content=b"[1]").json()["code"] == "hub.malformed"


def test_requests_beyond_the_limit_are_told_how_long_to_wait(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(requests=5, files=3, wrong_tokens=2, window_s=60.0)) as slow:
        slow.user("ada")
        with client(slow, "ada") as web, client(slow, None) as nobody:
            statuses = [web.get("/api/models").status_code for _ in range(6)]
            assert statuses == [200] * 5 + [429]
            answer = web.get("/api/models")
            assert 1 <= int(answer.headers["retry-after"]) <= 12
            assert answer.json()["code"] == "hub.too_many_requests"
            assert web.head("/a/b/resolve/main/c").status_code == 404  # another bucket
            assert nobody.get("/api/models").status_code == 200  # another caller
        guesses = []
        for number in range(4):
            with client(slow, None, Authorization=f"Bearer hf_{number:034d}") as guess:
                guesses.append(guess.get("/api/whoami-v2").status_code)
        assert guesses == [401, 401, 429, 429]


def test_a_bucket_fills_up_again_evenly_and_buckets_are_bounded() -> None:
    now = 0.0
    buckets = Buckets(Limits(requests=4, window_s=8.0, callers=3), clock=lambda: now)
    for _ in range(4):
        buckets.take("requests", "a")
    with pytest.raises(TooManyRequests) as caught:
        buckets.take("requests", "a")
    assert caught.value.wait_s == 2
    now = 2.0
    buckets.take("requests", "a")
    with pytest.raises(TooManyRequests):
        buckets.take("requests", "a")
    for caller in "bcd":
        buckets.take("requests", caller)
    assert len(buckets._left) == 3
