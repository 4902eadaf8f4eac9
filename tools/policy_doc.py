"""What follows from the policy's keys and rules: ``make docs``.

Writes the section ``require`` of ``configs/policy.example.yaml`` and the table of ``docs/gateway/policy.md``,
each between its first and its last line of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from plasmid.gateway.policy.require import Requirements
from plasmid.gateway.policy.rule import Rule

REPOSITORY = Path(__file__).parents[1]
WIDTH = 30
"""Column at which the example's comments begin."""


def example() -> str:
    """Return the section of the example policy: defaults in force, everything else commented out."""
    lines = ["require:"]
    for name, key in Requirements.model_fields.items():
        value = key.examples[0] if key.examples else key.default
        line = f"  {'# ' if key.examples else ''}{name}: {value}"
        lines.append(f"{line:<{WIDTH}}  # {key.description}")
    return "\n".join(lines) + "\n"


def table() -> str:
    """Return the table of the keys of ``require``."""
    lines = ["| key | default | asks | code |", "|---|---|---|---|"]
    for name, key in Requirements.model_fields.items():
        codes = ", ".join(f"`{rule.code}`" for rule in key.metadata if isinstance(rule, Rule))
        lines.append(f"| `{name}` | {_default(key)} | {key.description} | {codes} |")
    return "\n".join(lines) + "\n"


def _default(key: FieldInfo) -> str:
    value: Any = key.default
    if value is None:
        return "no limit"
    return f"`{value}`" if isinstance(value, (str, int)) else f"`{json.dumps(value.model_dump())}`"


PAGES = {
    REPOSITORY / "configs" / "policy.example.yaml": ("require:\n", "\nbudgets:", example),
    REPOSITORY / "docs" / "gateway" / "policy.md": ("| key | default |", "\n`coarse` lets", table),
}
"""Where each part begins, what follows it, and what it is."""


def page(path: Path) -> str:
    """Return the text of *path* with its part as it should be."""
    first, after, part = PAGES[path]
    text = path.read_text(encoding="utf-8")
    begin = text.index(first)
    return text[:begin] + part() + text[text.index(after, begin) :]


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path), encoding="utf-8")
