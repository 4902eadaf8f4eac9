"""No isolation: a child process with a small environment. For hosts that have none, and for controls."""

from __future__ import annotations

from plasmid.isolation.port import Prepared, Spec
from plasmid.secagg.statements import IsolationLevel


class Bare:
    """See the module."""

    level: IsolationLevel = "none"

    def unavailable(self) -> str | None:
        """See :class:`~plasmid.isolation.port.Isolation`."""
        return None

    def wrap(self, spec: Spec) -> Prepared:
        """See :class:`~plasmid.isolation.port.Isolation`."""
        return Prepared(spec.command, spec.environment)
