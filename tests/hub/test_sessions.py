"""People who log in on the pages: what the cookie opens, what it does not, and who cannot make use of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Response

from plasmid.hub.accounts.keys import sign
from plasmid.hub.accounts.limits import Limits
from plasmid.hub.routes.sessions import Sessions, local
from support.hub.hub_requests import CARD, client, commit
from support.hub.hub_server import LiveHub, served

PROOF = re.compile(r'name="form" value="([0-9a-f]{64})"')


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with a private and a gated model of Ada's."""
    with served(tmp_path_factory.mktemp("hub")) as one:
        for name in ("ada", "eve"):
            one.user(name)
        with client(one, "ada") as web:
            web.post("/api/repos/create", json={"name": "secret", "private": True})
            commit(web, "ada/secret", {"README.md": CARD.encode()})
            for name in ("gated", "manual"):
                web.post("/api/repos/create", json={"name": name})
                commit(web, f"ada/{name}", {"README.md": CARD.encode()})
            web.put("/api/models/ada/gated/settings", json={"gated": "auto", "terms": "Do no harm."})
            web.put("/api/models/ada/manual/settings", json={"gated": "manual", "terms": "Ask."})
        yield one


@pytest.fixture
def browser(live: LiveHub) -> Iterator[httpx.Client]:
    """A browser that keeps cookies."""
    with client(live, None, Accept="text/html,*/*") as one:
        yield one


def log_in(browser: httpx.Client, token: str, **more: str) -> httpx.Response:
    return browser.post("/login", data={"token": token} | more)


def proof(page: httpx.Response) -> str:
    """Return what the forms of a page carry."""
    return PROOF.findall(page.text)[0]


def test_who_has_logged_in_sees_private_models_until_the_log_out(
    browser: httpx.Client, live: LiveHub
) -> None:
    page, file = "/ada/secret", "/ada/secret/resolve/main/README.md"
    hidden = browser.get(page)
    assert (hidden.status_code, browser.get(file).status_code) == (404, 404)
    assert '<a href="/login?next=%2Fada%2Fsecret">logged in</a>' in hidden.text
    assert (
        re.sub("secret", "absent", hidden.text) == browser.get("/ada/absent").text
    )  # as one that is not there
    assert 'name="next" value="/ada/secret"' in browser.get("/login?next=%2Fada%2Fsecret").text

    begun = log_in(browser, live.tokens["ada"], next=page)
    assert (begun.status_code, begun.headers["location"]) == (303, page)
    shown = browser.get(page)
    assert (shown.status_code, shown.headers["cache-control"]) == (200, "private, no-store")
    assert "<span>ada</span>" in shown.text
    assert browser.get(file).text == CARD
    assert 'ada/secret</a> <span class="warn">private</span>' in browser.get("/models").text
    assert live.tokens["ada"] not in shown.text + str(dict(browser.cookies))

    assert browser.post("/logout", data={"form": "0" * 64}).status_code == 403
    assert browser.get(page).status_code == 200
    ended = browser.post("/logout", data={"form": proof(shown)})
    assert (ended.status_code, ended.headers["location"]) == (303, "/")
    assert (browser.get(page).status_code, browser.get(file).status_code) == (404, 404)
    assert "ada/secret" not in browser.get("/models").text


def test_a_stranger_s_session_shows_no_more_than_is_the_stranger_s(
    browser: httpx.Client, live: LiveHub
) -> None:
    log_in(browser, live.tokens["eve"])
    assert browser.get("/ada/secret").status_code == 404
    assert "logged in</a>" not in browser.get("/ada/secret").text


def test_the_cookie_is_for_pages_alone(browser: httpx.Client, live: LiveHub) -> None:
    log_in(browser, live.tokens["ada"])
    assert browser.get("/api/models/ada/secret").status_code == 404
    assert browser.get("/api/whoami-v2").status_code == 401
    assert browser.post("/api/repos/create", json={"name": "new"}).status_code == 401
    assert browser.post("/ada/gated/ask-access").status_code == 401
    assert browser.request("DELETE", "/api/repos/delete", json={"name": "secret"}).status_code == 401


def test_scripts_and_other_sites_cannot_have_it(browser: httpx.Client, live: LiveHub) -> None:
    said = log_in(browser, live.tokens["ada"]).headers["set-cookie"]
    parts = {part.strip().lower() for part in said.split(";")[1:]}
    assert parts == {"httponly", "max-age=43200", "path=/", "samesite=strict"}
    answer = Response()
    Sessions(b"k" * 32, 60.0, live.hub.accounts).begin(answer, "https://hub.example", "hf_x")
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert name == "__Host-plasmid-hub"
    assert "Secure" in rest
    assert "Domain" not in rest


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_no_other_site_logs_anybody_in(
    browser: httpx.Client, live: LiveHub, headers: dict[str, str], status: int
) -> None:
    answer = browser.post("/login", data={"token": live.tokens["eve"]}, headers=headers)
    assert (answer.status_code, "set-cookie" in answer.headers) == (status, status == 303)
    own = browser.post("/login", data={"token": live.tokens["eve"]}, headers={"Origin": live.url})
    assert own.status_code == 303


def test_terms_are_accepted_by_a_session_with_the_proof_of_its_pages(
    browser: httpx.Client, live: LiveHub
) -> None:
    log_in(browser, live.tokens["eve"])
    file = "/ada/gated/resolve/main/README.md"
    page = browser.get("/ada/gated")
    assert 'type="password"' not in page.text
    assert browser.get(file).status_code == 403
    for forged in ({}, {"form": ""}, {"form": "0" * 64}):
        assert browser.post("/ada/gated/accept", data=forged).status_code == 403
    assert browser.get(file).status_code == 403
    accepted = browser.post("/ada/gated/accept", data={"form": proof(page)})
    assert (accepted.status_code, "You accepted the terms" in accepted.text) == (200, True)
    assert browser.get(file).text == CARD
    assert "You have accepted them." in browser.get("/ada/gated").text
    asked = browser.post("/ada/manual/accept", data={"form": proof(page)})
    assert "The owners have been asked" in asked.text
    assert "the owners have been asked" in browser.get("/ada/manual").text
    # Another session of the same person has another proof.
    with client(live, None, Accept="text/html") as other:
        log_in(other, live.user("eve"))
        assert other.post("/ada/gated/accept", data={"form": proof(page)}).status_code == 403


def test_a_session_ends_with_its_token_and_with_its_hours(live: LiveHub, tmp_path: Path) -> None:
    token = live.user("ada")
    with client(live, None) as browser:
        log_in(browser, token)
        assert browser.get("/ada/secret").status_code == 200
        name, value = next(iter(browser.cookies.items()))
        digest, until, signature = value.split(".")
        later = f"{digest}.{int(until) + 1}.{signature}"
        own_key = f"{digest}.{until}.{sign(b'k' * 32, 'session', digest, until)}"
        for forged in (later, own_key, value.upper(), f"{value}0", "", "a.b.c", "\xff"):
            with client(live, None) as other:
                answer = other.get("/ada/secret", headers=[("cookie", f"{name}={forged}".encode("latin-1"))])
            assert answer.status_code == 404
        revoked = next(one for one in live.hub.accounts.tokens("ada") if digest.startswith(one.id))
        live.hub.accounts.revoke(revoked.id)
        assert browser.get("/ada/secret").status_code == 404
    live.user("ada")
    with served(tmp_path, limits=Limits(session_s=-1.0)) as late, client(late, None) as browser:
        answer = log_in(browser, late.user("ada"))
        value = answer.headers["set-cookie"].partition(";")[0]
        assert "Log out" not in browser.get("/models", headers={"Cookie": value}).text


def test_who_guesses_is_stopped_before_a_right_guess(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(wrong_tokens=3, window_s=600.0)) as slow, client(slow, None) as web:
        token = slow.user("ada")
        wrong = [log_in(web, f"hf_{number:034d}") for number in range(4)]
        assert [answer.status_code for answer in wrong] == [401, 401, 401, 429]
        assert "that is not a token of this hub" in wrong[0].text
        assert log_in(web, token).status_code == 429
        assert web.post("/ada/x/accept", data={"token": token}).status_code == 429
        assert web.get("/api/whoami-v2", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize(
    "elsewhere",
    ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "", "/a\r\nb: c", "/\t/evil"],
)
def test_a_log_in_never_leads_elsewhere(elsewhere: str) -> None:
    assert local(elsewhere) == "/"
    assert local("/ada/x/tree/a%2Fb?search=%20x&y=1") == "/ada/x/tree/a%2Fb?search=%20x&y=1"
