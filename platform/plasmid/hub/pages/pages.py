"""The pages for people: a list with a search, and one page for each repository; templates to HTML.

Rules
-----
1. Everything is escaped. A card is Markdown from a stranger: no HTML, no images, and links that go to the web
   or to files of this repository, nowhere else.
2. Nothing is loaded from elsewhere, and nothing runs: the one style sheet is named by its digest.
3. A command in the box works as it is pasted, against this hub and for this revision.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from plasmid.hub.store.records import Commit, Repo
from plasmid.web import render

MAX_CARD_CHARACTERS = 256 * 1024
_FOLDER = Path(__file__).with_name("templates")
_SITE_STYLE = Path(render.__file__).with_name("templates") / "style.css"


class Renderer:
    """Renders the templates of the hub called *name*."""

    def __init__(self, name: str) -> None:
        style = "\n".join(path.read_text("utf-8") for path in (_SITE_STYLE, _FOLDER / "extra.css"))
        self.style_digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"utc": render.utc, "size": render.size, "number": render.number}
        self._environment.filters |= {"segment": lambda text: quote(text, safe=""), "path": quote}
        self._environment.globals |= {"hub": name, "style": Markup(style)}  # noqa: S704 - files of ours

    def page(self, template: str, title: str, **values: Any) -> str:
        """Return a page."""
        return self._environment.get_template(template).render(title=title, **values)


def card_html(text: str, *, repo: Repo, commit: Commit) -> Markup:
    """Return a card's Markdown as HTML, without its front matter. What is too long is shown as plain text."""
    if len(text) > MAX_CARD_CHARACTERS:
        return Markup("<pre>{}</pre>").format(text[:MAX_CARD_CHARACTERS])
    reader = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    reader.disable("image")
    tokens = reader.parse(text)
    for token in _all(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"  # the page has its own first heading
        elif token.type == "link_open":
            token.attrs = {
                "href": _link(str(token.attrs.get("href", "")), repo, commit),
                "rel": "nofollow noreferrer",
            }
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # noqa: S704 - escaped by the renderer


def _all(tokens: Sequence[Token]) -> list[Token]:
    return [one for token in tokens for one in (token, *(token.children or ()))]


def _link(target: str, repo: Repo, commit: Commit) -> str:
    """Return where a link of a card leads: to the web as it says, or to a file of the repository."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "#"
    if parts.scheme in ("http", "https") and parts.netloc:
        return target
    if parts.scheme or parts.netloc or target.startswith(("/", "\\")):
        return "#"
    path = parts.path.removeprefix("./")
    return f"/{repo.id}/resolve/{commit.id}/{path}" if path and ".." not in path else "#"


def commands(repo: Repo, commit: Commit, *, url: str, base: str | None, adapter: bool) -> str:
    """Return the shell commands that fetch and load a repository.

    Parameters
    ----------
    base
        An adapter's base model, if it is on this hub, too.
    """
    lines = [f"export HF_ENDPOINT={url}"]
    if repo.private or repo.gated:
        lines.append("hf auth login  # with a token of this hub")
    lines.append(f"hf download {repo.id} --revision {commit.id[:12]} --local-dir {repo.id.name}")
    if adapter and base is not None:
        lines.append(_python(
            "from peft import PeftConfig, PeftModel; from transformers import AutoModel; "
            f'c = PeftConfig.from_pretrained("{repo.id}", revision="{commit.id}"); '
            "b = AutoModel.from_pretrained(c.base_model_name_or_path, revision=c.revision); "
            f'print(PeftModel.from_pretrained(b, "{repo.id}", revision="{commit.id}"))'
        ))  # fmt: skip
    elif not adapter:
        lines.append(_python(
            "from transformers import AutoModel; "
            f'print(AutoModel.from_pretrained("{repo.id}", revision="{commit.id}"))'
        ))  # fmt: skip
    return "\n".join(lines)


def _python(code: str) -> str:
    return f"python -c '{code}'"


def privacy_line(epsilon: float | None, provenance: Mapping[str, Any] | None) -> str:
    """Return in words what a repository states about privacy, from its ``provenance.json``."""
    said = (provenance or {}).get("privacy")
    privacy = said if isinstance(said, dict) else {}
    unit, delta, mechanism = (privacy.get(name) for name in ("unit", "delta", "mechanism"))
    if epsilon is None:
        if not privacy:
            return "It states nothing about privacy."
        how = f"mechanism: {str(mechanism)[:40]}"
        return f"It states no differential privacy ({how}): it may have learned its data by heart."
    line = f"It states differential privacy: epsilon at most {render.number(epsilon)}"
    if isinstance(delta, float) and 0 < delta < 1:
        line += f", delta {render.number(delta)}"
    if isinstance(unit, str):
        line += f", for one {unit[:40]}"
    if isinstance(mechanism, str):
        line += f", by {mechanism[:40]}"
    return line + ". Whether it is so is for 'plasmid hub verify' to check."
