"""The page in its own process: login, what it shows, what it does, and what it refuses to whom."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plasmid.gateway.home import SiteHome
from plasmid.gateway.pause import paused
from plasmid.log.audit_log import AuditLog
from plasmid.owner.page.app import COOKIE
from plasmid.owner.page.pages import ACTIONS, PAGES
from plasmid.owner.page.request_checks import FORM, MAX_BODY_BYTES
from plasmid.owner.page.server import PageServer
from plasmid.web.render import number, percent, size, utc
from support.federation.owner_site import RUN, make_site, make_used_site


class Browser(httpx.Client):
    """A client that has, or has not, logged in; it follows no redirect."""

    def __init__(self, page: PageServer) -> None:
        super().__init__(trust_env=False, timeout=20)
        self.page = page

    def log_in(self, secret: str | None = None) -> httpx.Response:
        if secret is None:
            secret = self.page.link().partition("secret=")[2]
        return self.post(f"{self.page.base}/login", data={"secret": secret})

    def see(self, path: str = "/") -> httpx.Response:
        return self.get(self.page.base + path)

    def token(self, path: str = "/") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.see(path).text)
        assert found
        return found[1]

    def submit(self, path: str, *, token: str | None = None, **fields: str) -> httpx.Response:
        given = self.token() if token is None else token
        return self.post(self.page.base + path, data={"csrf": given, **fields})


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_used_site(tmp_path / "site")[0]


@pytest.fixture
def page(home: SiteHome) -> Iterator[PageServer]:
    server = PageServer(home)
    server.start()
    yield server
    server.close()


@pytest.fixture
def stranger(page: PageServer) -> Iterator[Browser]:
    with Browser(page) as browser:
        yield browser


@pytest.fixture
def owner(page: PageServer) -> Iterator[Browser]:
    with Browser(page) as browser:
        assert browser.log_in().status_code == 303
        yield browser


# -- the process -----------------------------------------------------------------------------------


def test_the_verb_prints_a_link_that_opens_the_page_once(home: SiteHome) -> None:
    verb = ["site", "page", "--home", str(home.folder), "--until-stdin-closes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "plasmid.cli.main", *verb],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        link = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/login\?secret=[\w-]{43}", said)
        assert link, said
        base, _, secret = link[0].partition("/login?secret=")
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert client.get(f"{base}/").status_code == 401
            assert "Log in" in client.get(link[0]).text
            entered = client.post(f"{base}/login", data={"secret": secret})
            assert (entered.status_code, client.get(f"{base}/").status_code) == (303, 200)
        with httpx.Client(trust_env=False, timeout=20) as other:
            assert other.post(f"{base}/login", data={"secret": secret}).status_code == 403
    finally:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert secret not in out + err, "it is printed once"


@pytest.mark.promise("page-on-loopback")
def test_it_listens_on_loopback_only(page: PageServer) -> None:
    assert page._socket.getsockname()[0] == "127.0.0.1"


def test_a_taken_port_is_an_error_that_says_so(page: PageServer, home: SiteHome) -> None:
    from support.federation.attacks import refusal

    with refusal("usage.port"):
        PageServer(home, port=page.port)


# -- who sees it -----------------------------------------------------------------------------------


def test_every_address_but_the_login_needs_a_session(stranger: Browser) -> None:
    """Found by discovery: a new page or action is among them."""
    for path in PAGES:
        found = stranger.see(re.sub(r"\{\w+\}", "x", path))
        assert (found.status_code, RUN in found.text) == (401, False), path
    for path in [*ACTIONS, "/log-out"]:
        found = stranger.submit(re.sub(r"\{\w+\}", "x", path), token="x" * 43, who="me", reason="because")
        assert found.status_code == 401, path


def test_with_one_every_page_is_there(owner: Browser) -> None:
    for path in PAGES:
        if "{" not in path:
            assert owner.see(path).status_code == 200, path


def test_a_forged_cookie_opens_nothing(stranger: Browser) -> None:
    below = f"/{stranger.page.base.rpartition('/')[2]}/"
    stranger.cookies.set(COOKIE, "x" * 43, domain="127.0.0.1", path=below)
    assert stranger.see().status_code == 401


def test_the_cookie_is_kept_from_scripts_other_sites_and_other_ports(page: PageServer) -> None:
    with Browser(page) as browser:
        said = browser.log_in().headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(said.split("; "))
    assert f"Path=/{page.base.rpartition('/')[2]}/" in said


def test_the_beginning_of_addresses_is_needed(owner: Browser) -> None:
    assert owner.get(f"http://127.0.0.1:{owner.page.port}/").status_code == 404
    assert owner.get(f"http://127.0.0.1:{owner.page.port}/outbox").status_code == 404


def test_logging_out_ends_the_session(owner: Browser) -> None:
    assert owner.submit("/log-out").status_code == 200
    assert owner.see().status_code == 401


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1:1", "127.0.0.1", "localhost", ""])
def test_another_host_name_is_refused(owner: Browser, host: str) -> None:
    """DNS rebinding: the browser believes that it speaks to attacker.example."""
    found = owner.get(f"{owner.page.base}/", headers={"Host": host})
    assert (found.status_code, RUN in found.text) == (421, False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_elsewhere_does_nothing(owner: Browser, home: SiteHome, headers: dict[str, str]) -> None:
    fields = {"csrf": owner.token(), "who": "Ada", "reason": "an incident"}
    found = owner.post(f"{owner.page.base}/pause", data=fields, headers=headers)
    assert (found.status_code, paused(home)) == (403, None)
    own = {"Origin": f"http://127.0.0.1:{owner.page.port}", "Sec-Fetch-Site": "same-origin"}
    assert owner.post(f"{owner.page.base}/pause", data=fields, headers=own).status_code == 303
    assert paused(home) is not None, "the positive control"


@pytest.mark.parametrize("token", ["", "x" * 43])
def test_a_form_without_its_token_does_nothing(owner: Browser, home: SiteHome, token: str) -> None:
    found = owner.submit("/pause", token=token, who="Ada", reason="an incident")
    assert (found.status_code, paused(home)) == (403, None)


def test_another_sessions_token_does_nothing(owner: Browser, home: SiteHome) -> None:
    with Browser(owner.page) as other:
        other.log_in()
        assert owner.submit("/pause", token=other.token(), who="Ada", reason="x").status_code == 403
    assert paused(home) is None


def test_every_answer_forbids_scripts_frames_and_everything_from_elsewhere(owner: Browser) -> None:
    style = re.search(r"<style>(.*?)</style>", owner.see().text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    answers = [owner.see(), owner.see("/nowhere"), owner.get(f"{owner.page.base}/", headers={"Host": "x"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert f"style-src 'sha256-{digest}'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_no_page_has_a_script_or_anything_from_elsewhere(owner: Browser) -> None:
    for path in PAGES:
        text = owner.see(path).text
        assert "<script" not in text, path
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text), path
        assert not re.search(r"\son\w+=", text), path


def test_what_the_log_says_is_escaped(owner: Browser) -> None:
    text = owner.see("/refusals").text
    assert "&lt;script&gt;alert(&#39;canary&#39;)&lt;/script&gt;" in text


@pytest.mark.parametrize("body", [b"csrf=" + b"x" * MAX_BODY_BYTES, b"a=1&" * 65, b"\xff=\xfe"])
def test_what_is_no_form_of_the_page_is_refused(owner: Browser, body: bytes) -> None:
    for path in ("/pause", "/login"):
        found = owner.post(owner.page.base + path, content=body, headers={"Content-Type": FORM})
        assert found.status_code in (400, 409), path
    assert owner.see().status_code == 200


def test_long_addresses_and_headers_are_refused(owner: Browser) -> None:
    assert owner.see("/" + "x" * 5000).status_code == 414
    for length, status in ((1000, 200), (17_000, 431)):
        assert owner.get(f"{owner.page.base}/", headers={"X-Long": "x" * length}).status_code == status


# -- what it shows -----------------------------------------------------------------------------------


def test_the_outbox_shows_every_body_with_units(owner: Browser) -> None:
    text = owner.see("/outbox").text
    assert "3 bodies left this site, 408 kB in all" in text
    for words in (RUN, "136 kB", "2.5 → 1", "60 % clipped", "ε 3 for the run", "A [8, 512]", "landlock"):
        assert words in text, words
    assert re.search(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}</td>", text)
    assert "Of the run" in owner.see(f"/outbox?run={RUN}").text


def test_empty_states_are_said_in_words(tmp_path: Path) -> None:
    home, _ = make_site(tmp_path / "site")
    server = PageServer(home)
    server.start()
    try:
        with Browser(server) as owner:
            owner.log_in()
            assert "Nothing has left this site." in owner.see("/outbox").text
            assert "Nothing has been refused." in owner.see("/refusals").text
            assert "The log has no entry." in owner.see("/log").text
            assert "nothing signed yet" in owner.see().text
    finally:
        server.close()


def test_budgets_and_the_overview_have_the_same_figures(owner: Browser) -> None:
    cells = re.findall(r'<td class="number">([^<]+)</td>', owner.see("/budgets").text)
    assert cells == ["8", "3", "0", "5", "9e-05"]
    assert "ε 5 left of 8" in owner.see().text


def test_what_cannot_be_read_is_said_where_it_would_stand(owner: Browser, home: SiteHome) -> None:
    home.ledger.write_bytes(b"not a ledger\n")
    assert "is damaged" in owner.see("/budgets").text
    home.policy.write_text("allow: [", encoding="utf-8")
    assert "policy.yaml" in owner.see("/budgets").text
    text = owner.see().text
    assert (owner.see().status_code, text.count("cannot be read")) == (200, 2)


def test_the_log_is_verified_on_demand(owner: Browser, home: SiteHome) -> None:
    assert "The first 5 entries are those that this site signed" in owner.see("/log?verify=yes").text
    log = AuditLog(home.audit).files.log
    log.write_bytes(log.read_bytes().replace(b'"round":2', b'"round":9'))
    assert "is damaged" in owner.see("/log?verify=yes").text


def test_the_log_has_pages(owner: Browser, home: SiteHome) -> None:
    log = AuditLog(home.audit)
    for _ in range(200):
        log.write("notice", run="other", result="noted")
    first = owner.see("/log").text
    assert "205 entries" in first
    assert "page=2" in first
    assert "started" in owner.see("/log?page=2").text
    assert owner.see("/log?page=x").status_code == 200
    assert "started" not in owner.see(f"/log?run={RUN}").text


# -- what it does ----------------------------------------------------------------------------------


def test_pausing_works_at_once_and_is_logged(owner: Browser, home: SiteHome) -> None:
    assert owner.submit("/pause", who="Ada Lovelace", reason="an incident").status_code == 303
    known = paused(home)
    assert known is not None
    assert (known.by, known.reason) == ("Ada Lovelace", "an incident")
    assert "Paused" in owner.see().text
    assert owner.submit("/resume", who="Ada Lovelace").status_code == 303
    assert paused(home) is None
    assert [entry["action"] for entry in AuditLog(home.audit).entries()][-2:] == ["paused", "resumed"]


def test_a_form_that_lacks_a_field_says_which(owner: Browser, home: SiteHome) -> None:
    found = owner.submit("/pause", who="Ada", reason=" ")
    assert (found.status_code, "reason" in found.text, paused(home)) == (409, True, None)


# -- how things are written --------------------------------------------------------------------------


def test_times_sizes_and_numbers_have_units() -> None:
    assert utc("2026-11-25T10:00:00Z") == "2026-11-25 10:00:00"
    assert utc("2026-11-25T11:30:00+01:30") == "2026-11-25 10:00:00"
    assert [size(count) for count in (1, 999, 136_016, 5_000_000, 7 * 10**12)] == [
        "1 bytes", "999 bytes", "136 kB", "5 MB", "7e+03 GB"
    ]  # fmt: skip
    assert [number(value) for value in (0.0, 3.0, 0.123456, 1e-5, 1234567.0)] == [
        "0", "3", "0.1235", "1e-05", "1.235e+06"
    ]  # fmt: skip
    assert percent(0.6) == "60 %"
