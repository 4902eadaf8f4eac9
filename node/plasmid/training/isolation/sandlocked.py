"""Sandlock: the confinement of the package of that name (Landlock, by other authors), and ours on top.

Rules
-----
1. The package confines the door in its own process, before our own Landlock rules, filter and limits: a
   worker is never locked in less than at the level ``landlock``, and a mistake in either lock is held by the
   other.
2. Its supervisor is not used: it takes the one listener that the kernel gives a process, with which the guard
   sees attempts and counts processes.
3. It asks for Landlock ABI 6 (Linux 6.12) or later, and refuses less.

https://github.com/multikernel/sandlock, docs/decisions/0034-levels-of-isolation-found-by-trial.md
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from plasmid.privacy.statements import IsolationLevel
from plasmid.training.isolation.landlock import Landlock, abi, readable, writable
from plasmid.training.isolation.port import Prepared, Spec
from plasmid.training.isolation.trial import try_it

LEAST_ABI = 6


class Sandlock:
    """See the module."""

    level: IsolationLevel = "sandlock"

    def unavailable(self) -> str | None:
        """See :class:`~plasmid.training.isolation.port.Isolation`."""
        if _package() is None:
            return "the package sandlock is not installed (pip install plasmid[sandlock])"
        if abi() < LEAST_ABI:
            return f"the kernel has Landlock ABI {abi()}, and {LEAST_ABI} (Linux 6.12) is the least"
        return try_it(self)

    def wrap(self, spec: Spec) -> Prepared:
        """See :class:`~plasmid.training.isolation.port.Isolation`."""
        prepared = Landlock().wrap(spec)
        assert prepared.orders is not None
        rules = {
            "package": str(_package()),
            "readable": [str(path) for path in readable(spec)],
            "writable": [str(path) for path in writable(spec)],
        }
        orders = {**prepared.orders, "sandlock": rules}
        return Prepared(prepared.argv, prepared.environment, orders, scratch=prepared.scratch)


def _package() -> Path | None:
    """Return the folder that the package lies in, without importing it."""
    found = importlib.util.find_spec("sandlock")
    return None if found is None or found.origin is None else Path(found.origin).parents[1]
