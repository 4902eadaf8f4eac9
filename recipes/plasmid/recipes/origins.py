"""Where each value of a resolved document comes from.

Rules
-----
1. A list is one value. The more exact of two flags counts.
2. What is in the file is ``recipe``, what a flag replaced that flag, what was looked up ``catalogue``;
   everything else is the schema's ``default``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Location = tuple[str | int, ...]
LOOKED_UP: frozenset[Location] = frozenset({("model", "revision"), ("model", "digest")})


def origins(
    resolved: Mapping[str, Any], written: Mapping[str, Any], flags: Mapping[Location, str]
) -> dict[str, str]:
    """Return the origin of every value of *resolved*, by its dotted path, in order.

    Parameters
    ----------
    written
        The file's document, with flags applied.
    flags
        The flag that replaced what is at a path: ``--seed``, ``--set a.b``.
    """
    return {".".join(map(str, path)): _origin(path, written, flags) for path, _ in leaves(resolved)}


def leaves(document: Mapping[str, Any], above: Location = ()) -> Iterator[tuple[Location, Any]]:
    """Yield path and value of everything in *document* that is no map, and of empty maps."""
    for key, value in document.items():
        path = (*above, key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def _origin(path: Location, written: Mapping[str, Any], flags: Mapping[Location, str]) -> str:
    for size in range(len(path), 0, -1):
        if path[:size] in flags:
            return flags[path[:size]].partition(" ")[0]
    place: Any = written
    for part in path:
        if not isinstance(place, Mapping) or part not in place:
            return "catalogue" if path in LOOKED_UP else "default"
        place = place[part]
    return "recipe"
