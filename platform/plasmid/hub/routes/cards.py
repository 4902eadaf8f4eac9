"""The card's front matter: is it sound, and does it say under which licence the files may be used?

Rules
-----
1. What cannot be read, or has the wrong type, is an error. What is missing is a warning, but for the licence
   of a base model or an adapter on a hub that requires one.
2. The same check answers ``/api/validate-yaml``, which clients ask before a commit, and guards the commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from plasmid.core.errors import HubError
from plasmid.core.yaml12 import Yaml12Error, parse_yaml
from plasmid.hub.routes.request_context import Body, Desk, text_of
from plasmid.hub.safety import WEIGHTS
from plasmid.hub.store.card_facts import MAX_FRONT_MATTER

MAX_CARD_BYTES = 2**20
_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_TEXTS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
_LISTS = ("tags", "base_model", "datasets", "metrics", "language")
NO_LICENCE = (
    "the card says no licence: nobody may use the files without one. Add a line such as "
    "'license: apache-2.0' to the front matter of README.md"
)


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a card, in sentences without a full stop."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def split(text: str) -> tuple[str | None, str]:
    """Return a card's front matter, None if it has none, and the rest."""
    match = _BLOCK.match(text)
    return (match[1], text[match.end() :]) if match else (None, text)


def judge(text: str, *, require_licence: bool) -> Verdict:
    """Return what is wrong with the card *text*."""
    front, _ = split(text)
    if front is None:
        said: Any = {}
        warnings = ["the card has no front matter between two lines of ---"]
    else:
        if len(front) > MAX_FRONT_MATTER:
            return Verdict((f"the front matter is longer than {MAX_FRONT_MATTER} characters",))
        try:
            said, _ = parse_yaml(front)
        except Yaml12Error as error:
            return Verdict((f"the front matter, line {error.line}: {error.what}",))
        warnings = []
        said = {} if said is None else said
    if not isinstance(said, dict):
        return Verdict(("the front matter is not a map of names to values",))
    errors = [f"{name} is not a text" for name in _TEXTS if not isinstance(said.get(name, ""), str | None)]
    errors += [
        f"{name} is neither a text nor a list of texts" for name in _LISTS if not _texts(said.get(name))
    ]
    if not said.get("license"):
        (errors if require_licence else warnings).append(NO_LICENCE)
    return Verdict(tuple(errors), tuple(warnings))


def _texts(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return True
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_commit(card: bytes, *, paths: Iterable[str], require_licence: bool) -> tuple[str, ...]:
    """Return the warnings about the card of a commit whose files are *paths*.

    Raises
    ------
    HubError
        ``hub.card``: it is unsound, or says no licence where one is required.
    """
    if len(card) > MAX_CARD_BYTES:
        raise HubError("hub.card", f"README.md is longer than {MAX_CARD_BYTES} bytes.", "Shorten it.")
    weights = any(path.lower().endswith(WEIGHTS) for path in paths)
    verdict = judge(card.decode("utf-8", "replace"), require_licence=require_licence and weights)
    if verdict.errors:
        raise HubError(
            "hub.card", f"README.md: {'; '.join(verdict.errors)}.", "Correct the card and try again."
        )
    return verdict.warnings


def routes(desk: Desk) -> APIRouter:
    """Return the route that clients ask whether a card is sound."""
    router = APIRouter()

    @router.post("/api/validate-yaml")
    def validate(request: Request, body: Body) -> Response:
        desk.caller(request)
        text = text_of(body, "content", most=MAX_CARD_BYTES)
        kind = body.get("repoType") or "model"
        if kind != "model":
            raise HubError(
                "hub.kind", f"this hub has models only, no {str(kind)[:20]}.", "Leave the type out."
            )
        verdict = judge(text, require_licence=desk.limits.licence == "require")
        status = 400 if verdict.errors else 200
        if status == 400 and request.headers.get("accept") == "text/plain":
            return Response("\n".join(verdict.errors), status, media_type="text/plain")
        return JSONResponse(
            {
                "errors": [{"message": one} for one in verdict.errors],
                "warnings": [{"message": one} for one in verdict.warnings],
            },
            status,
        )

    return router
