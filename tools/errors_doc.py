"""The error reference ``docs/errors.md``, written from the source: ``make docs``.

Rules
-----
1. A package says in its ``errors.yaml`` when it raises each of its codes and what to do; such a file is found by being there.
2. Objects that carry their own code and line give them by a further function in :data:`PROVIDERS`.
3. The mark *site* follows from the sentences that a site may tell others.
4. Sections are the error families of :mod:`plasmid.core.errors` with the summary of their class; a line may name a part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from plasmid.core.errors import PlasmidError
from plasmid.core.yaml12 import parse_yaml
from plasmid.gateway.disclosure import SENTENCES

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "errors.md"
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


PROVIDERS: list[Callable[[], Iterable[Line]]] = [from_files]
"""Sources of lines. Objects with codes of their own, such as policy rules, add a function here."""


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
    text = [INTRODUCTION]
    for family, found in groupby(lines(), key=lambda line: line.family):
        text.append(f"## {family.capitalize()}\n{introductions[family]}\n")
        for part, within in groupby(found, key=lambda line: line.part):
            text.append((f"### {part}\n\n" if part else "") + _table(within))
    return "\n".join(text)


def main() -> int:
    """Write the reference; with ``--check`` return 1 where it is not what the source gives."""
    new = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


INTRODUCTION = """\
# Errors
Made from the source by `make docs`; do not edit. Every error has a stable code. Programs match the code; people read the
message, which says what is wrong and with which values, and the hint, which says what to do next. A code is never reused.
A message never holds a cell of a data file.

| where you see it | what it is |
|---|---|
| stderr, `error [CODE] message`, then the hint | a command in text format |
| stdout, `{"status": "error", "error": {"code", "message", "hint"}}` | a command with `--format json` ([machine interface](machine-interface.md)) |
| HTTP 401, 403, 404, 409 or 413 with `{"error": {...}}` | the coordinator's answer on the link |
| HTTP with `{"error": "sentence", "code", "hint"}` and `X-Error-Message` | a hub's answer; Hugging Face clients show the sentence ([hub.md](hub.md#what-clients-show-when-something-is-wrong)) |
| HTTP with `{"error": {"message", "type", "param", "code"}}` | the answer of `plasmid serve`; its codes are in [serving.md](serving.md#what-you-are-told-when-it-fails) |
| `runs show` of a run that FAILED | the run's own error, kept in the coordinator's database |
| the plan, and `runs show` | the reason for a site's refusal: a code and a sentence fixed in the source |

A site tells the others only the codes marked *site*, each with a constant sentence. Every other problem with its data leaves as
`data.invalid`, or under a privacy unit as `data.not_ready`; every other problem leaves as `site.failed`. The full message stays
in the site's audit log and in `worker.log`.
"""

if __name__ == "__main__":
    sys.exit(main())
