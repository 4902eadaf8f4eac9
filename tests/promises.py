"""Compare what documents promise with the tests that hold it: ``python tests/promises.py``; in ``make lint``.

Rules
-----
1. A promise is an anchor in a document, ``<!-- promise: NAME, NAME -->``, at the end of the block that states
   it. A test holds it by ``@pytest.mark.promise("NAME")``. Blocks may share a name, and so may tests.
2. A block is a paragraph, an item of a list or a row of a table. In README.md each block of the section whose
   heading says "promise" ends in an anchor; in SECURITY.md and docs/gateway.md each block of every section.
   A block that promises nothing ends in ``<!-- no promise -->``; as a line by itself it holds until the next
   heading.
3. Each promise has a test that ``make test`` runs (not ``slow``), and no test of a limit. Each name at a test
   is in a document.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from marked import TESTS, Marked, marked

DOCUMENTS = {"README.md": "promise", "SECURITY.md": "", "docs/gateway.md": ""}
"""Document, and the word in the headings of its sections that rule 2 is about; empty: every section."""
_ANCHOR = re.compile(r"<!-- promise: ([a-z0-9-]+(?:, [a-z0-9-]+)*) -->")
_NONE = "<!-- no promise -->"
_ITEM = re.compile(r"\s*([-*]|\d+\.) ")
_RULE = re.compile(r"\|[\s:|-]+\|?")


@dataclass(frozen=True)
class Block:
    """A paragraph, an item or a row.

    Attributes
    ----------
    wants
        Whether it has to end in an anchor.
    """

    document: str
    text: str
    wants: bool

    @property
    def promises(self) -> list[str]:
        """The names in its anchors."""
        return [name for found in _ANCHOR.findall(self.text) for name in found.split(", ")]

    @property
    def anchored(self) -> bool:
        """Whether it ends in an anchor of either kind; in a row the last cell does."""
        end = self.text.rstrip(" |")
        return end.endswith(_NONE) or bool(_ANCHOR.search(end[end.rfind("<!--") :] if "<!--" in end else ""))


def blocks(document: str, text: str, word: str) -> Iterator[Block]:
    """Yield the blocks of *document*; *word* as in :data:`DOCUMENTS`."""
    section, wants, code, table = False, False, False, False
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        heading, row = line.startswith("#") and not code, line.startswith("|") and not code
        if lines and (not line.strip() or heading or row or _ITEM.match(line) or lines[0].startswith("|")):
            yield Block(document, " ".join(lines), wants)
            lines = []
        if line.startswith("```"):
            code = not code
        elif heading:
            section = word in line.lower() if line.startswith("## ") else section and line.startswith("###")
            wants = section
        elif line.strip() == _NONE:
            wants = False
        elif row and not table:
            pass  # the heading of a table
        elif line.strip() and not code and not _RULE.fullmatch(line):
            lines.append(line.strip())
        table = row
    if code:
        raise ValueError(f"{document}: a block of code does not end.")


def problems(texts: Mapping[str, str], tests: Iterable[Marked]) -> list[str]:
    """Return what is wrong, in sentences; *texts* are those of :data:`DOCUMENTS`."""
    found: list[str] = []
    promised: defaultdict[str, set[str]] = defaultdict(set)
    for document, word in DOCUMENTS.items():
        here = list(blocks(document, texts[document], word))
        if not any(block.wants and block.promises for block in here):
            found.append(f"{document} promises nothing: the section or its anchors are gone.")
        for block in here:
            for name in block.promises:
                promised[name].add(document)
            if len(_ANCHOR.findall(block.text)) < block.text.count("<!-- promise"):
                found.append(
                    f"{document}: the anchor of {block.text[:70]!r} is not <!-- promise: NAME, NAME -->."
                )
            if block.wants and not block.anchored:
                found.append(
                    f"{document}: {block.text[:70]!r} does not end in <!-- promise: NAME --> or {_NONE}."
                )
    held: defaultdict[str, list[Marked]] = defaultdict(list)
    for test in tests:
        for name in test.said:
            held[name].append(test)
    for name in sorted(promised.keys() | held.keys()):
        if name not in promised:
            found.append(f"{held[name][0].test} holds {name!r}, which no document promises.")
        elif not any("slow" not in test.others for test in held[name]):
            found.append(f"{', '.join(sorted(promised[name]))}: no test of 'make test' holds {name!r}.")
        found += [
            f"{test.test} shows a limit and cannot hold {name!r}."
            for test in held[name]
            if "limit" in test.others
        ]
    return found


def main() -> int:
    """Print what is wrong; return 1 if something is."""
    root = TESTS.parent
    texts = {document: (root / document).read_text(encoding="utf-8") for document in DOCUMENTS}
    found = problems(texts, marked({"promise"}))
    print("\n".join(found) or "Each promise is held by a test.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
