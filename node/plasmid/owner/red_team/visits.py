"""Attacks on the owner's page, over loopback, against a page of the scratch site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from plasmid.gateway.pause import paused
from plasmid.owner.page.app import COOKIE
from plasmid.owner.page.pages import ACTIONS, PAGES
from plasmid.owner.page.server import PageServer
from plasmid.owner.red_team.attack import DidNotHoldError, attacks, works
from plasmid.owner.red_team.scratch import Scratch


@contextmanager
def _page(scratch: Scratch) -> Iterator[tuple[PageServer, httpx.Client, str]]:
    """Serve the page; yield it, a client that has logged in, and the token of its forms."""
    server = PageServer(scratch.home())
    server.start()
    try:
        with httpx.Client(trust_env=False, timeout=20) as client:
            client.post(f"{server.base}/login", data={"secret": server.link().partition("secret=")[2]})
            seen = client.get(f"{server.base}/")
            token = re.search(r'name="csrf" value="([^"]+)"', seen.text)
            works(seen.status_code == 200 and token is not None, "the owner cannot log in")
            assert token is not None
            yield server, client, token[1]
    finally:
        server.close()


def page_without_login(scratch: Scratch) -> None:
    """Every address of the page, found by discovery, without a login, with a forged and with a used one."""
    with _page(scratch) as (server, owner, _), httpx.Client(trust_env=False, timeout=20) as client:
        secret = server.link().partition("secret=")[2]
        for cookie in ("", "x" * 43, secret):
            headers = {"Cookie": f"{COOKIE}={cookie}"}
            for path in PAGES:
                answer = client.get(server.base + re.sub(r"\{\w+\}", "x", path), headers=headers)
                _closed(path, answer)
            for path in ACTIONS:
                there = server.base + re.sub(r"\{\w+\}", "x", path)
                _closed(path, client.post(there, headers=headers, data={"who": "x", "reason": "x"}))
        works(owner.get(f"{server.base}/").status_code == 200, "the owner is not logged in any more")


def _closed(path: str, answer: httpx.Response) -> None:
    if answer.status_code != 401:
        raise DidNotHoldError(f"{path} answers {answer.status_code}")


def page_from_elsewhere(scratch: Scratch) -> None:
    """A form of another web page, one without a token, and a name that points at this machine."""
    home = scratch.home()
    with _page(scratch) as (server, owner, token):
        fields = {"csrf": token, "who": "red team", "reason": "an exercise"}
        for headers in ({"Origin": "https://attacker.example"}, {"Sec-Fetch-Site": "cross-site"}):
            owner.post(f"{server.base}/pause", data=fields, headers=headers)
        owner.post(f"{server.base}/pause", data={**fields, "csrf": ""})
        owner.post(f"{server.base}/pause", data={**fields, "csrf": "x" * 43})
        if paused(home) is not None:
            raise DidNotHoldError("a form from elsewhere paused the site")
        rebound = owner.get(f"{server.base}/", headers={"Host": f"attacker.example:{server.port}"})
        if rebound.status_code == 200:
            raise DidNotHoldError("the page answers under another host's name")
        owner.post(f"{server.base}/pause", data=fields)
        works(paused(home) is not None, "the owner's own form does nothing")


ATTACKS = attacks((31, page_without_login), (31, page_from_elsewhere))
