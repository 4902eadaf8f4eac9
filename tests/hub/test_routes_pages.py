"""The pages: a stranger's card does no harm, nothing comes from elsewhere, terms can be accepted."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from plasmid.hub.store.names import RepoId
from support.hub.hub_requests import WEIGHTS, client, commit
from support.hub.hub_server import LiveHub, served

HOSTILE = """---
license: mit
tags: ["<script>alert(1)</script>"]
---
# <img src=x onerror=alert(1)>

<script>alert(2)</script> <a href="javascript:alert(3)">x</a>
[js](javascript:alert(4)) [data](data:text/html,x) [vb](vbscript:x) [up](../../evil) [host](//evil.example)
[web](https://example.org/a) [own](provenance.json "t\\"x") ![picture](https://evil.example/p.png)
<https://example.org/auto> `<b>code</b>`

| a | b |
|---|---|
| <i>1</i> | 2 |
"""


HARMLESS = """a body br button code div em form h1 h2 h3 head header html input label li main meta p pre
    section span strong style table tbody td th thead title tr ul"""
ATTRIBUTES = """action aria-label aria-labelledby autocomplete charset class content href id lang method name
    placeholder rel required role scope tabindex title type value"""


class Tags(HTMLParser):
    """The tags and attributes of a page, as a browser takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with a base, an adapter of it with a hostile card, and a gated model."""
    with served(tmp_path_factory.mktemp("hub")) as one:
        one.user("ada")
        one.user("eve")
        with client(one, "ada") as web:
            for name in ("base", "adapter", "gated"):
                web.post("/api/repos/create", json={"name": name})
            config = {"base_model_name_or_path": "ada/base", "peft_type": "LORA"}
            privacy = {"unit": "patient", "epsilon": 8.0, "delta": 1e-6, "mechanism": "dp-sgd"}
            commit(
                web,
                "ada/base",
                {"README.md": b"---\nlicense: mit\n---\n# Base\n", "model.safetensors": WEIGHTS},
            )
            files = {
                "README.md": HOSTILE.encode(),
                "adapter_config.json": json.dumps(config).encode(),
                "adapter_model.safetensors": WEIGHTS,
                "provenance.json": json.dumps({"privacy": privacy, "run": "run-1"}).encode(),
            }
            commit(web, "ada/adapter", files)
            commit(web, "ada/gated", {"README.md": b"# Gated\n"})
            web.put("/api/models/ada/gated/settings", json={"gated": "auto", "terms": "Do <b>no</b> harm."})
        yield one


@pytest.fixture
def browser(live: LiveHub) -> Iterator[httpx.Client]:
    """Somebody without a token."""
    with client(live, None, Accept="text/html,*/*") as one:
        yield one


def test_a_hostile_card_is_text(browser: httpx.Client) -> None:
    text = browser.get("/ada/adapter").text
    assert "<script" not in text
    assert "<img" not in text
    assert "onerror=alert(1)&gt;" in text
    hrefs = {html.unescape(found) for found in re.findall(r'href="([^"]*)"', text)}
    leads = {href for href in hrefs if not href.startswith(("/", "#main"))}
    # A picture is a link to it, which is followed by a person or not at all.
    assert leads == {"https://example.org/a", "https://example.org/auto", "https://evil.example/p.png", "#"}
    assert "&lt;b&gt;code&lt;/b&gt;" in text
    assert "<td>&lt;i&gt;1&lt;/i&gt;</td>" in text
    assert re.search(r'href="/ada/adapter/resolve/[0-9a-f]{40}/provenance.json"', text)


@pytest.mark.parametrize(
    "path", ["/", "/login", "/models?search=a", "/ada", "/ada/base", "/ada/absent", "/ada/adapter/tree/main"]
)
def test_pages_load_and_run_nothing(path: str, browser: httpx.Client) -> None:
    answer = browser.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = Tags()
    found.feed(answer.text)
    assert found.tags <= set(HARMLESS.split())
    assert found.attributes <= set(ATTRIBUTES.split())
    assert "set-cookie" not in answer.headers


def test_the_page_shows_files_lineage_privacy_and_commands(browser: httpx.Client, live: LiveHub) -> None:
    text = html.unescape(browser.get("/ada/adapter").text)
    assert "differential privacy: epsilon at most 8, delta 1e-06, for one patient, by dp-sgd" in text
    assert "adapter_model.safetensors" in text
    assert '<li>base: <a href="/ada/base">ada/base</a>' in text
    assert f"export HF_ENDPOINT={live.url}\nhf download ada/adapter --revision" in text
    assert '<a href="/ada/adapter">ada/adapter</a>' in browser.get("/ada/base").text  # what was made from it


def test_addresses_that_clients_print_lead_to_the_page(browser: httpx.Client, live: LiveHub) -> None:
    sha = browser.get("/api/models/ada/base").json()["sha"]
    for path in (f"/ada/base/commit/{sha}", "/ada/base/tree/main/", "/ada/base/blob/main/README.md"):
        answer = browser.get(path)
        assert (answer.status_code, sha in answer.text) == (200, True)


def test_the_list_finds_and_pages(browser: httpx.Client, live: LiveHub) -> None:
    assert (
        "ada/adapter" in browser.get("/models?search=lora adapter").text
        or "ada/adapter" in browser.get("/").text
    )
    assert "No public model here fits that" in browser.get("/models?search=nothing-like-it").text
    assert "&lt;script&gt;" in browser.get("/models", params={"search": "<script>"}).text


def test_terms_are_accepted_with_a_token_and_nothing_else(browser: httpx.Client, live: LiveHub) -> None:
    page = browser.get("/ada/gated").text
    assert "Do &lt;b&gt;no&lt;/b&gt; harm." in page
    assert '<form class="fields" method="post" action="/ada/gated/accept">' in page
    file = "/ada/gated/resolve/main/README.md"
    with client(live, "eve") as eve:
        refused = eve.get(file)
        assert (refused.status_code, refused.headers["x-error-code"]) == (403, "GatedRepo")
        assert f"{live.url}/ada/gated" in refused.headers["x-error-message"]
        assert browser.post("/ada/gated/accept", data={"token": "hf_wrong"}).status_code == 401
        assert eve.get(file).status_code == 403
        accepted = browser.post("/ada/gated/accept", data={"token": live.tokens["eve"]})
        assert (accepted.status_code, "You accepted the terms" in accepted.text) == (200, True)
        assert live.tokens["eve"] not in accepted.text
        assert eve.get(file).status_code == 200
    assert browser.get(file).status_code == 403  # nobody in particular


def test_a_retired_model_warns_where_it_is_used(browser: httpx.Client, live: LiveHub) -> None:
    with client(live, "ada") as web:
        web.post("/api/repos/create", json={"name": "old"})
        commit(web, "ada/old", {"README.md": b"# Old\n"})
        ada = live.hub.accounts.who(live.tokens["ada"])
        assert ada is not None
        live.hub.registry.retire(RepoId.parse("ada/old"), "a site withdrew", by=ada)
        warning = "retired ada/old; ada/old was retired: a site withdrew"
        assert web.head("/ada/old/resolve/main/README.md").headers["x-hf-warning"] == warning
        assert web.get("/api/models/ada/old").headers["x-hf-warning"] == warning
    assert "Retired: a site withdrew" in browser.get("/ada/old").text


def test_a_card_that_is_too_long_or_no_text_is_shown_all_the_same(
    browser: httpx.Client, live: LiveHub
) -> None:
    with client(live, "ada") as web:
        web.post("/api/repos/create", json={"name": "long"})
        commit(web, "ada/long", {"README.md": b"<x> " * 100_000})
        assert "<pre>&lt;x&gt; &lt;x&gt;" in browser.get("/ada/long").text
        commit(web, "ada/long", {"README.md": b"\xff\xfe" + b">" * 5_000 + b"[" * 20_000})
        assert browser.get("/ada/long").status_code == 200
