"""The Python API: plan, launch and watch runs at a coordinator. The CLI is a skin over it.

>>> from plasmid.client import Coordinator
>>> run = Coordinator("https://coordinator:8443").run("tcr-covid")   # doctest: +SKIP
>>> run.wait().table                                                 # doctest: +SKIP
"""

from plasmid.client.api import Coordinator, Run
from plasmid.client.table import Table

__all__ = ["Coordinator", "Run", "Table"]
