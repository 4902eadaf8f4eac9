"""The names of the verbs that stock clients are tried with, and those in the table of docs/hub.md."""

from __future__ import annotations

import re
from pathlib import Path

_HERE = Path(__file__).parent
PARTS = ("writing", "reading", "refusals", "libraries")
NAMES = [
    name
    for part in PARTS
    for name in re.findall(r'^@verb\("(.+)"\)$', (_HERE / f"hub_verbs_{part}.py").read_text(), re.MULTILINE)
]


def documented() -> list[str]:
    """Return the verbs of the table, in its order."""
    text = (_HERE.parents[2] / "docs/hub.md").read_text("utf-8")
    table = text[text.index("| verb | 0.30.2 |") :].split("\n\n")[0]
    return [row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()[2:]]
