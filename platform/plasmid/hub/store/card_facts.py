"""What a repository is found by, read out of the files of its branch ``main``.

    README.md             front matter: license, base_model, tags, library_name, pipeline_tag, language,
    datasets,
                          model-index (a metric), plasmid (domain, organism, task); the first heading is the
                          title
    provenance.json       run, recipe, base, privacy (unit, epsilon, mechanism), metrics
    adapter_config.json   the base model and its revision, kind of adapter
    head.json             metric, labels, what it reads
    config.json           a base model's architecture

Rules
-----
1. These are claims of whoever uploaded the files; that they are so is for the signed manifest to show.
2. A stranger's file never stops a commit here: what is missing, too long, or other than expected, is left
   out.
3. A file is at most 1 MB long, JSON is counted before it is parsed, and tags and edges are capped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from plasmid.core.bounds import parse_json
from plasmid.core.yaml12 import Yaml12Error, parse_yaml
from plasmid.hub.store.changes import plain_text
from plasmid.hub.store.names import MAX_REVISION
from plasmid.hub.store.tables import MAX_EDGE_NAME, MAX_TAG, MAX_TITLE
from plasmid.tasks.metrics import FEWER_IS_BETTER

SOURCES = ("README.md", "provenance.json", "adapter_config.json", "head.json", "config.json")
MAX_SOURCE_BYTES = 1_000_000
MAX_FRONT_MATTER = 65_536
MAX_TAGS = 100
MAX_EDGES = 64
MAX_JSON_VALUES = 100_000
MAX_WORDS = 16
WORD = "word:"
"""Before a word of a title, where it is kept among the tags."""
_HEADING = re.compile(r"^#\s+(.+?)\s*#*$", re.MULTILINE)
_TITLE_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_MIN_WORD = 3
_FEWER = FEWER_IS_BETTER | {"loss", "eval_loss", "perplexity", "mse", "wer", "cer"}
"""Metrics that no order by metric, largest first, and no least value can mean: they are tags only."""
_RELATIONS = ("adapter", "merge", "finetune", "quantized")
_PLAIN = ("library_name", "pipeline_tag")
_OURS = ("domain", "organism", "task")

Edge = tuple[str, str, str | None]
"""Kind, name, revision."""


@dataclass(frozen=True)
class Facts:
    """What a repository is found by.

    Attributes
    ----------
    tags
        In lower case, sorted: plain ones, and ``license:``, ``base_model:``, ``dataset:``, ``metric:``,
        ``unit:``, ``mechanism:``, ``domain:``, ``organism:``, ``task:``, ``reads:`` ones.
    words
        Of the title, in lower case, without those that are shorter than three letters: ``t-cell`` and, of it,
        ``cell``.
    metric, epsilon
        None where nothing finite is said.
    edges
        What it was made from; names as they are written.
    card
        The front matter, JSON values.
    """

    title: str = ""
    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    metric: float | None = None
    epsilon: float | None = None
    edges: tuple[Edge, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)


def read_facts(files: Mapping[str, bytes]) -> Facts:
    """Return the facts in *files*: the contents, by name, of those of :data:`SOURCES` that there are."""
    card, body = _split(_text(files.get("README.md")))
    provenance, adapter, head, config = (
        _object(files.get(name))
        for name in ("provenance.json", "adapter_config.json", "head.json", "config.json")
    )
    privacy, measured = _map(provenance, "privacy"), _map(provenance, "metrics")
    index = _indexed(card)
    metric = _first(_number(measured, "federated"), _number(index, "value"))
    named = _first(_word(measured, "metric"), _word(head, "metric"), _word(index, "type"))
    if named is not None and named.lower() in _FEWER:
        metric = None
    bases = list(_bases(card, adapter))
    kinds = _kinds(card, adapter, bases)
    tags: dict[str, None] = {}
    for tag in (
        *_words(card.get("tags")),
        *(_word(card, key) for key in _PLAIN),
        *_words(card.get("language")),
        _word(config, "model_type"),
        *_prefixed("license", _words(card.get("license"))),
        *_prefixed("base_model", [name for name, _ in bases]),
        *(f"base_model:{kind}:{name}" for kind, (name, _) in zip(kinds, bases, strict=True)),
        *_prefixed("dataset", _words(card.get("datasets"))),
        *_prefixed("metric", [named]),
        *_prefixed("unit", [_word(privacy, "unit")]),
        *_prefixed("mechanism", [_word(privacy, "mechanism")]),
        *_prefixed("reads", [_word(head, "kind")]),
        *(tag for key in _OURS for tag in _prefixed(key, _words(_map(card, "plasmid").get(key)))),
    ):
        if tag and len(tag.lower()) <= MAX_TAG and len(tags) < MAX_TAGS:
            tags[tag.lower()] = None
    heading = _HEADING.search(body)
    title = plain_text(heading[1] if heading else "", MAX_TITLE)
    return Facts(
        title=title,
        tags=tuple(sorted(tags)),
        words=title_words(title),
        metric=metric,
        epsilon=_number(privacy, "epsilon", least=0),
        edges=tuple(_edges(kinds, bases, provenance))[:MAX_EDGES],
        card=card,
    )


def front_matter(readme: bytes) -> dict[str, Any]:
    """Return the front matter of a card, {} where there is none that can be read."""
    return _split(_text(readme))[0]


def _split(text: str) -> tuple[dict[str, Any], str]:
    """Return a card's front matter and the rest."""
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}, text
    matter, ends, body = text[4:].partition("\n---")
    if not ends or len(matter) > MAX_FRONT_MATTER:
        return {}, text
    try:
        value, _ = parse_yaml(matter)
        json.dumps(value, allow_nan=False).encode()
    except (Yaml12Error, ValueError, RecursionError):
        return {}, body
    return (value if isinstance(value, dict) else {}), body


def _text(data: bytes | None) -> str:
    return plain_text((data or b"").decode("utf-8", "replace"), MAX_SOURCE_BYTES)


def _object(data: bytes | None) -> dict[str, Any]:
    """Return the JSON object in *data*, {} if it is none."""
    if data is None or len(data) > MAX_SOURCE_BYTES:
        return {}
    try:
        value = parse_json(data, max_values=MAX_JSON_VALUES)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _map(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: Mapping[str, Any], key: str, least: float = -math.inf) -> float | None:
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or abs(found) > 1e300:
        return None
    return float(found) if math.isfinite(found) and found >= least else None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _word(value: Mapping[str, Any], key: str) -> str | None:
    return next(iter(_words(value.get(key))), None)


def _words(value: Any) -> list[str]:
    """Return the texts in *value*, a text or a list; a number is a text, too (``license: 0bsd``)."""
    values = value if isinstance(value, list) else [value]
    texts = (
        plain_text(str(one).strip(), MAX_TAG + 1) for one in values[:MAX_TAGS] if isinstance(one, str | int)
    )
    return [text for text in texts if text and text.isprintable()]


def _prefixed(prefix: str, words: list[str] | list[str | None]) -> list[str]:
    return [f"{prefix}:{word}" for word in words if word]


def _indexed(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first metric of a card's ``model-index`` that is a number."""
    for model in _maps(card.get("model-index")):
        for result in _maps(model.get("results")):
            for metric in _maps(result.get("metrics")):
                if _number(metric, "value") is not None:
                    return metric
    return {}


def _maps(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _bases(card: Mapping[str, Any], adapter: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the base models, each once, with their revisions where they are known."""
    pinned, revision = _word(adapter, "base_model_name_or_path"), _word(adapter, "revision")
    seen = set()
    for name in [*_words(card.get("base_model")), *([pinned] if pinned else [])]:
        if name.lower() not in seen:
            seen.add(name.lower())
            yield name, revision if pinned and name.lower() == pinned.lower() else None


def _kinds(
    card: Mapping[str, Any], adapter: Mapping[str, Any], bases: list[tuple[str, str | None]]
) -> list[str]:
    """Return how each of *bases* was used: the one that an adapter fits is its base, whatever was merged."""
    relation = str(card.get("base_model_relation", "")).lower()
    kind = relation if relation in _RELATIONS else "adapter" if adapter else "finetune"
    if not adapter or (kind != "merge" and len(bases) < 2):
        return [kind] * len(bases)
    fitted = (_word(adapter, "base_model_name_or_path") or "").lower()
    return ["adapter" if name.lower() == fitted else "merge" for name, _ in bases]


def title_words(title: str) -> tuple[str, ...]:
    """Return the words that *title* is found by; see :class:`Facts`."""
    found: dict[str, None] = {}
    for word in _TITLE_WORD.findall(title.lower()):
        for one in dict.fromkeys((word, *word.split("-"))):
            if len(one) >= _MIN_WORD and len(WORD + one) <= MAX_TAG and len(found) < MAX_WORDS:
                found[one] = None
    return tuple(found)


def _edges(
    kinds: list[str], bases: list[tuple[str, str | None]], provenance: Mapping[str, Any]
) -> Iterator[Edge]:
    found: list[Edge] = [
        ("base" if kind == "adapter" else kind, name, revision)
        for kind, (name, revision) in zip(kinds, bases, strict=True)
    ]
    recipe = _map(provenance, "recipe")
    found += [("run", name, None) for name in _words(provenance.get("run"))]
    found += [("recipe", digest, _word(recipe, "name")) for digest in _words(recipe.get("digest"))]
    seen = set()
    for kind_, name, revision in found:
        if (kind_, name.lower()) not in seen and len(name.lower()) <= MAX_EDGE_NAME:
            seen.add((kind_, name.lower()))
            yield kind_, name, None if revision is None else revision[:MAX_REVISION]
