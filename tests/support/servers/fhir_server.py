"""A small FHIR server in a thread, on this machine: searches with pages, and what goes wrong with them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class FhirServer:
    """Holds resources by type, and serves them.

    Attributes
    ----------
    page
        Resources of a page.
    token
        Required as a bearer token, if it is not None.
    trouble
        Answers of (status, headers, body) that are given first, one a request.
    next_link
        Replaces the link to the next page: ``{base}`` and ``{offset}`` are filled in.
    asked
        Path and query of every request.
    """

    def __init__(self, resources: list[dict[str, Any]], page: int = 10) -> None:
        self.resources = resources
        self.page = page
        self.token: str | None = None
        self.trouble: list[tuple[int, dict[str, str], bytes]] = []
        self.next_link = "{base}/{kind}?_count=500&offset={offset}"
        self.absent: set[str] = set()
        self.asked: list[str] = []
        self.base = ""

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a GET of *path*."""
        self.asked.append(path)
        if self.trouble:
            return self.trouble.pop(0)
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {}, b"{}"
        parts = urlsplit(path)
        kind = parts.path.rpartition("/")[2]
        if kind in self.absent:
            return 404, {}, b"{}"
        offset = int(parse_qs(parts.query).get("offset", ["0"])[0])
        chosen = [one for one in self.resources if one["resourceType"] == kind]
        entries = [
            {"fullUrl": f"{self.base}/{kind}/{one['id']}", "resource": one, "search": {"mode": "match"}}
            for one in chosen[offset : offset + self.page]
        ]
        links = [{"relation": "self", "url": self.base + path}]
        if offset + self.page < len(chosen):
            following = self.next_link.format(base=self.base, kind=kind, offset=offset + self.page)
            links.append({"relation": "next", "url": following})
        bundle = {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries}
        return 200, {"Content-Type": "application/fhir+json"}, json.dumps(bundle).encode()


@contextlib.contextmanager
def serving(server: FhirServer) -> Iterator[str]:
    """Serve while the block runs; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = server.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.base = f"http://127.0.0.1:{listening.server_address[1]}/fhir"
    try:
        yield server.base
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
