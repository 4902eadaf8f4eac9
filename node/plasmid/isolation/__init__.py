"""Locks a worker in: the port, its levels, and which of them can be had here."""

from __future__ import annotations

from plasmid.isolation.choice import choose, probe, strongest
from plasmid.isolation.port import LEVELS, Isolation, Limits, Spec, at_least

__all__ = ["LEVELS", "Isolation", "Limits", "Spec", "at_least", "choose", "probe", "strongest"]
