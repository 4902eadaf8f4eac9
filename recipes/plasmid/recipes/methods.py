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
    if not api.is_method(name):
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
            f"{federation.server.strategy} would remember and move what {name} does not train in a round, or "
            "takes apart after it; use FedAvg, or a method that moves all by the mean, such as ffa_lora"
        )
        yield ("federation", "server", "strategy"), what
    if adapter:
        for key in ADAPTER_KEYS:
            if (getattr(adapter, key) is None) == (key in method.ADAPTER_KEYS):
                verb = "is needed by" if key in method.ADAPTER_KEYS else "means nothing with"
                yield ("adapter", key), f"{verb} computation: {name}"
    if adapter and federation and adapter.sketch_width is not None:
        yield from _too_narrow(adapter.sketch_width, adapter.lora.rank, federation.min_sites)


def _too_narrow(width: int, rank: int, sites: int) -> Iterator[tuple[Location, str]]:
    if width < rank * sites:
        what = (
            f"a width of {width} recovers the sum of {width // rank} sites of rank {rank}, and min_sites is "
            f"{sites}: it must be at least {rank * sites}, and the rank times the sites that you expect"
        )
        yield ("adapter", "sketch_width"), what
