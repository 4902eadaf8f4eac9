"""The error reference ``docs/errors.md``, written from the source: ``make docs``.

Rules
-----
1. A package says in its ``errors.yaml`` when it raises each of its codes and what to do. These files are
   found by being there.
2. Objects that carry their own code and line give them by a further function in :data:`PROVIDERS`.
3. The mark *site* follows from the sentences that a site may tell others.
4. Sections are the error families of :mod:`plasmid.core.errors` with the text of their class; a line may
   name a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from plasmid.core.errors import PlasmidError
from plasmid.core.yaml12 import parse_yaml
from plasmid.gateway.policy.decide import RULES
from plasmid.gateway.sentences import SENTENCES

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "errors.md"
HEAD = Path(__file__).with_name("errors_doc.head.md")
"""The beginning of the page, which is written by hand."""
ROOTS = ("models", "recipes", "node", "platform")


@dataclass(frozen=True)
class Line:
    """A code of the reference.

    Attributes
    ----------
    code
        Stable dotted name.
    when, do
        The condition under which it is raised; what to do next.
    part
        The heading below its family's; empty for none.
    room
        The folder of the package that says so; the root of the repository for an object's own line.
    """

    code: str
    when: str
    do: str
    part: str = ""
    room: Path = REPOSITORY

    @property
    def family(self) -> str:
        """The part of the code before the dot."""
        return self.code.partition(".")[0]


def from_files() -> Iterator[Line]:
    """Yield the lines of every ``errors.yaml`` below the four roots."""
    for path in sorted(path for root in ROOTS for path in (REPOSITORY / root).rglob("errors.yaml")):
        for code, said in parse_yaml(path.read_text(encoding="utf-8"))[0].items():
            yield Line(code, said["when"], said["do"], said.get("part", ""), path.parent)


def from_rules() -> Iterator[Line]:
    """Yield the line of every rule of the policy."""
    for rule in RULES:
        yield Line(rule.code, rule.when, rule.do, rule.part)


PROVIDERS: list[Callable[[], Iterable[Line]]] = [from_files, from_rules]
"""Sources of lines. Objects with codes of their own add a function here."""


def lines() -> list[Line]:
    """Return every line, in the order of the page."""
    order = [kind.family for kind in PlasmidError.__subclasses__()]
    found = [line for provider in PROVIDERS for line in provider()]
    return sorted(found, key=lambda line: (order.index(line.family), line.part, line.code))


def _table(found: Iterable[Line]) -> str:
    rows = ["| code | when | what to do |", "|---|---|---|"]
    for line in found:
        mark = " (*site*)" if line.code in SENTENCES else ""
        rows.append(f"| `{line.code}`{mark} | {line.when} | {line.do} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the whole reference."""
    introductions = {
        kind.family: " ".join((kind.__doc__ or "").split()) for kind in PlasmidError.__subclasses__()
    }
    text = [HEAD.read_text(encoding="utf-8")]
    for family, found in groupby(lines(), key=lambda line: line.family):
        text.append(f"## {family.capitalize()}\n{introductions[family]}\n")
        for part, within in groupby(found, key=lambda line: line.part):
            text.append((f"### {part}\n\n" if part else "") + _table(within))
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
