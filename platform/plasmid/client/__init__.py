"""The Python API: plan, launch and watch runs at a coordinator. The CLI is a skin over it.

>>> from plasmid.client import Coordinator
>>> run = Coordinator("https://coordinator:8443").run("tcr-covid")   # doctest: +SKIP
>>> run.wait().table                                                 # doctest: +SKIP

The names are imported when they are first used, so that ``plasmid --help`` need not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plasmid.client.api import Coordinator
    from plasmid.client.run import Run
    from plasmid.experiments.table import Table

__all__ = ["Coordinator", "Run", "Table"]

_HOME = {"Coordinator": "api", "Run": "run", "Table": "table"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
