"""What every benchmark reports: ours beside the peer's, in one run, and the ratio against the goal.

Rules
-----
1. Both sides are measured in the same run, on the same machine; only the ratio is a claim.
2. People read the table, on stderr. Tools read the last line of stdout: one JSON object
   ``{"bench", "results": [{"what", "ours", "peer", "unit", "ratio", "goal", "met"}]}``.
3. A benchmark reports; it never fails because a goal is missed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One figure of a benchmark. Make it with :meth:`times_better` or :meth:`share`.

    Parameters
    ----------
    what
        What was measured, in words.
    ours, peer
        The two figures in *unit*; less is better.
    unit
        For example ``"s"`` or ``"B"``.
    ratio
        ``peer / ours`` or ``ours / peer``, as the goal is stated.
    goal
        The ratio to reach.
    met
        Whether it was reached.
    """

    what: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: float
    met: bool

    @classmethod
    def times_better(cls, what: str, *, ours: float, peer: float, unit: str, goal: float) -> Self:
        """Return a result whose ratio is ``peer / ours``, met from *goal* upward.

        Raises
        ------
        ValueError
            A figure is not a finite number above 0.
        """
        _check(what, ours, peer)
        return cls(what, ours, peer, unit, peer / ours, goal, met=peer / ours >= goal)

    @classmethod
    def share(cls, what: str, *, ours: float, peer: float, unit: str, goal: float) -> Self:
        """Return a result whose ratio is ``ours / peer``, met up to *goal*.

        Raises
        ------
        ValueError
            A figure is not a finite number above 0.
        """
        _check(what, ours, peer)
        return cls(what, ours, peer, unit, ours / peer, goal, met=ours / peer <= goal)


def report(bench: str, results: Sequence[Result]) -> None:
    """Print *results* of the benchmark named *bench*: a table on stderr, then one JSON line on stdout."""
    table = Table(title=f"bench {bench}", title_justify="left")
    table.add_column("what")
    for heading in ("ours", "peer", "ratio", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("met")
    for result in results:
        table.add_row(
            result.what,
            f"{result.ours:.4g} {result.unit}",
            f"{result.peer:.4g} {result.unit}",
            f"{result.ratio:.3g}",
            f"{result.goal:g}",
            "yes" if result.met else "NO",
        )
    Console(stderr=True).print(table)
    print(json.dumps({"bench": bench, "results": [asdict(result) for result in results]}), flush=True)


def _check(what: str, ours: float, peer: float) -> None:
    for side, figure in (("ours", ours), ("peer", peer)):
        if not (math.isfinite(figure) and figure > 0):
            raise ValueError(f"{what}: the figure of {side} is {figure}; it must be finite and above 0.")
