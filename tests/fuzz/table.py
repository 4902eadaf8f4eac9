"""The outcomes of a run of the fuzzer as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

HEAD = """\
| parser | inputs | taken | seconds | peak memory, MiB | of it grown, MiB | crashes | hangs |
|---|--:|--:|--:|--:|--:|--:|--:|"""


def markdown(lines: Iterable[str]) -> str:
    """Return a table of outcomes, one JSON object a line; of each parser the last."""
    outcomes = {one["name"]: one for one in map(json.loads, filter(str.strip, lines))}
    total = sum(one["inputs"] for one in outcomes.values())
    rows = [_row(one) for _, one in sorted(outcomes.items())]
    return "\n".join([HEAD, *rows, f"\n{len(outcomes)} parsers, {total:,} inputs."])


def _row(one: dict[str, Any]) -> str:
    cells = [
        *(one["name"], f"{one['inputs']:,}", f"{one['taken']:,}", f"{one['seconds']:.0f}"),
        *(f"{one['peak_mib']:.0f}", f"{one['growth_mib']:.0f}"),
        *(str(len(one["crashes"])), str(len(one["hangs"]))),
    ]
    return f"| {' | '.join(cells)} |"
