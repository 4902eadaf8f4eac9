"""What resources are called, and what references call them. Pure.

Rules
-----
1. A resource is ``Type/id`` on its server, and the ``fullUrl`` of its entry within a bundle (RFC 4122's
   ``urn:uuid:`` where it has no id yet). A version (``/_history/3``) is the same resource.
2. One connection shows one server. An absolute name loses the server's base; two bases with resources of
   their own are refused, because ``Patient/1`` of two servers would be two people with one identifier.
3. Two resources of one name are two versions of one, in whatever files they stand: taking two people for one
   costs accuracy, taking one for two would cost that person's privacy.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LOCAL = re.compile(r"([A-Za-z]{1,64})/([A-Za-z0-9.-]{1,64})(?:/_history/[^/]*)?")
_URN = "urn:"


class Name(NamedTuple):
    """``local`` (``Type/id``, or a URN, or another URL) and the ``base`` of the server, where it is told."""

    local: str
    base: str | None = None


def name_of(reference: str) -> Name:
    """Return what *reference*, or a ``fullUrl``, calls."""
    if reference[:4].lower() == _URN:
        return Name(reference.lower())
    if "://" not in reference:
        found = _LOCAL.fullmatch(reference)
        return Name(f"{found[1]}/{found[2]}" if found else reference)
    parts = reference.partition("/_history/")[0].rsplit("/", 2)
    if len(parts) == 3 and _LOCAL.fullmatch(f"{parts[1]}/{parts[2]}"):
        return Name(f"{parts[1]}/{parts[2]}", parts[0].rstrip("/").lower())
    return Name(reference)


def names(kind: str, identifier: object, url: str | None) -> list[Name]:
    """Return the names of a resource, the best known one first; none where it has neither id nor URL."""
    found = [Name(f"{kind}/{identifier}")] if isinstance(identifier, str) else []
    if url:
        entry = name_of(url)
        found = (
            [entry._replace(local=found[0].local), *found[1:]] if found and entry.base else [*found, entry]
        )
    return found


def person_of(name: Name) -> str:
    """Return the identifier of the person who is called *name*: the id, the UUID, or the URL."""
    local = name.local
    return local.removeprefix("Patient/").removeprefix("urn:uuid:")
