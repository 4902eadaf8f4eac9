"""No isolation: a child process with a small environment. For hosts that have none, and for controls."""

from __future__ import annotations

from plasmid.privacy.statements import IsolationLevel
from plasmid.training.isolation.port import Prepared, Spec


class Bare:
    """See the module."""

    level: IsolationLevel = "none"

    def unavailable(self) -> str | None:
        """See :class:`~plasmid.training.isolation.port.Isolation`."""
        return None

    def wrap(self, spec: Spec) -> Prepared:
        """See :class:`~plasmid.training.isolation.port.Isolation`."""
        return Prepared(spec.command, spec.environment)
