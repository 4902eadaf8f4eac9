"""What a recipe's other sections may not ask of the method that it trains with.

Rules
-----
1. What a method can do is its module's own word (:class:`plasmid.computations.api.Method`). None is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from plasmid.computations import api

Location = tuple[str | int, ...]
ADAPTER_KEYS = ("sketch_width",)
"""Keys of the section ``adapter`` that some methods need and all others refuse."""


def method_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each thing in those *sections* that are given which the method cannot do."""
    name = sections.get("computation")
    if name not in api.METHODS:
        return
    method = cast(api.Method, api.load(name))
    adapter, federation, privacy = (sections.get(part) for part in ("adapter", "federation", "privacy"))
    if privacy and not method.LINEAR and privacy.shares_noise:
        what = (
            f"{privacy.mechanism} adds noise to what a site sends, and {name} sends what is not linear in "
            "its training; use dp-sgd, or a method that is, such as ffa_lora"
        )
        yield ("privacy", "mechanism"), what
    if federation and not method.SERVER_OPTIMISERS and federation.server.strategy != "FedAvg":
        what = (
            f"{federation.server.strategy} would remember and move factors that {name} takes apart after "
            "each round; use FedAvg, or a method that moves them by the mean alone, such as rolora"
        )
        yield ("federation", "server", "strategy"), what
    training = sections.get("training")
    if training and training.lora_b_ratio != 1 and "A" not in method.learns(None, 1) | method.learns(None, 2):
        yield ("training", "lora_b_ratio"), f"means nothing with {name}, in which A never learns: set lora_lr"
    if adapter:
        for key in ADAPTER_KEYS:
            if (getattr(adapter, key) is None) == (key in method.ADAPTER_KEYS):
                verb = "is needed by" if key in method.ADAPTER_KEYS else "means nothing with"
                yield ("adapter", key), f"{verb} computation: {name}"
    if adapter and adapter.ranks:
        yield from _ranks(adapter, method, sections)
    if adapter and federation and adapter.sketch_width is not None:
        yield from _too_narrow(adapter.sketch_width, adapter, federation.min_sites)


def _ranks(adapter: Any, method: api.Method, sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    if not method.SITE_RANKS:
        able = [one for one in api.METHODS if cast(api.Method, api.load(one)).SITE_RANKS]
        what = (
            f"{sections['computation']} averages factors, which sites of different ranks do not have alike; "
            f"use computation: {' or '.join(able)}, which averages products"
        )
        yield ("adapter", "ranks"), what
    for site, rank in adapter.ranks.items():
        if rank > adapter.lora.rank:
            what = f"rank {rank}, but the adapter is cut to lora.rank {adapter.lora.rank} after each round"
            yield ("adapter", "ranks", site), what
    federation, privacy = sections.get("federation"), sections.get("privacy")
    if federation and federation.stop:
        yield ("adapter", "ranks"), "a site of a smaller rank cannot judge the whole adapter; leave out stop"
    if privacy and getattr(privacy, "audit", None) is not None:
        yield ("adapter", "ranks"), "a site of a smaller rank cannot audit the whole adapter; leave out audit"


def _too_narrow(width: int, adapter: Any, sites: int) -> Iterator[tuple[Location, str]]:
    least = sum(sorted([*adapter.ranks.values(), *[adapter.lora.rank] * sites])[:sites])
    if width < least:
        what = (
            f"a width of {width} is too little for min_sites, {sites}, whose ranks add up to {least} or "
            "more: it must be at least the sum of the ranks of the sites that you expect"
        )
        yield ("adapter", "sketch_width"), what
