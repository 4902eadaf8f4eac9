"""Which levels can be had here, and which one a site runs at.

Rules
-----
1. Every level is tried by starting something in it; that a program is installed says nothing.
2. ``best`` is the strongest that works, and ``none`` is never the best: a site whose host has no sandbox
   says ``isolation: none`` itself, or does not start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from plasmid.core.errors import SiteFailed
from plasmid.isolation.bubblewrap import Bubblewrap
from plasmid.isolation.landlock import Landlock
from plasmid.isolation.no_isolation import Bare
from plasmid.isolation.port import Isolation
from plasmid.secagg.statements import IsolationLevel


def every() -> Sequence[Isolation]:
    """Return every level, strongest first."""
    return (Bubblewrap(), Landlock(), Bare())


def probe() -> dict[IsolationLevel, str | None]:
    """Return for every level why it cannot be had here, or None; strongest first."""
    return {isolation.level: isolation.unavailable() for isolation in every()}


def choose(wanted: IsolationLevel | Literal["best"]) -> Isolation:
    """Return the isolation that *wanted* says, after trying it.

    Raises
    ------
    SiteFailed
        ``site.isolation``: it cannot be had here, and why.
    """
    problems = []
    for isolation in every():
        if wanted not in (isolation.level, "best") or (wanted == "best" and isolation.level == "none"):
            continue
        problem = isolation.unavailable()
        if problem is None:
            return isolation
        problems.append(f"{isolation.level}: {problem}")
    tried = "; ".join(problems)
    raise SiteFailed(
        "site.isolation",
        f"no sandbox can be had here ({tried})."
        if wanted == "best"
        else f"site.yaml says isolation: {wanted}, which cannot be had here ({tried}).",
        "Install bubblewrap, or run on Linux 6.2 or later; 'isolation: none' does without a sandbox.",
    )


def strongest() -> tuple[IsolationLevel, str]:
    """Return the strongest isolation that this host has, and why it is ``none`` if it is."""
    try:
        return choose("best").level, ""
    except SiteFailed as error:
        return "none", error.message
