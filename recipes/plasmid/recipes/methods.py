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
    method = cast(api.Method, api.load(str(name)))
    adapter, federation, privacy = (sections.get(part) for part in ("adapter", "federation", "privacy"))
    if privacy and not method.LINEAR and privacy.shares_noise:
        what = (
            f"{privacy.mechanism} adds noise to what a site sends, and {name} sends what is not linear in "
            "its training; use dp-sgd, or a method that is, such as ffa_lora"
        )
        yield ("privacy", "mechanism"), what
    training = sections.get("training")
    if training and training.lora_b_ratio != 1 and "A" not in method.learns(None, 1) | method.learns(None, 2):
        yield ("training", "lora_b_ratio"), f"means nothing with {name}, in which A never learns: set lora_lr"
    if adapter:
        for key in ADAPTER_KEYS:
            if (getattr(adapter, key) is None) == (key in method.ADAPTER_KEYS):
                verb = "is needed by" if key in method.ADAPTER_KEYS else "means nothing with"
                yield ("adapter", key), f"{verb} computation: {name}"
    yield from _personal(method, adapter, privacy, sections)
    if adapter and adapter.ranks:
        yield from _ranks(adapter, method, sections)
    if adapter and federation and adapter.sketch_width is not None:
        yield from _too_narrow(adapter.sketch_width, adapter, federation.min_sites)


def _personal(
    method: api.Method, adapter: Any, privacy: Any, sections: Mapping[str, Any]
) -> Iterator[tuple[Location, str]]:
    """Yield what cannot go with parts that a site keeps for itself.

    Under ``dp-fedsgd`` only the sum of gradients is noised. Personal parts would learn from the site's own
    rows without noise, and the next sum is computed with them: one record would move the gradients of all
    others, which no clip of its own gradient bounds.
    """
    training, release = sections.get("training"), sections.get("release")
    own = [*getattr(method, "PERSONAL", ()), *(adapter.personal if adapter else ())]
    if own and privacy and privacy.mechanism == "dp-fedsgd":
        what = (
            f"dp-fedsgd noises the sum alone, and what a site keeps for itself ({', '.join(own)}) would "
            "carry its records into the next sum without noise; use dp-sgd, which noises all that learns"
        )
        yield ("privacy", "mechanism"), what
    if (own or (training and training.personal_steps)) and privacy and privacy.audit is not None:
        what = "canaries are guessed from what is released, and would be trained into what each site keeps"
        yield ("privacy", "audit"), f"{what}; leave out the audit, or what is personal"
    if own and release and release.min_metric is not None:
        what = f"what is released lacks what each site keeps ({', '.join(own)}), and has no metric of its own"
        yield ("release", "min_metric"), what
    if own and training and training.lora_lr == 0 and "head" in own:
        yield ("training", "lora_lr"), "with 0, and a personal head, nothing is learned together"


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
