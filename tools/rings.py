"""Lines of code by ring of trust, each with its bound: ``make docs`` writes the table of docs/gateway.md.

Rules
-----
1. A line of code holds a token that is no comment, no docstring and no white space.
2. A ring is the modules of ours that its process has imported once it has done its work, less those of the
   rings before it. What no process of a site imports is the rest.
3. A bound is of a ring and those inside it, so that code which moves outwards raises none. It may only fall:
   :data:`BOUNDS` keeps every one that was in force, the newest last.
"""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "gateway.md"
ROOTS = ("models", "recipes", "node", "platform")
GOAL = 5_500
"""Of the trusted core, in lines of code."""

BOUNDS = {
    "trusted core": (17_000, 16_200, 15_300),
    "trust base of DP": (17_540, 16_740, 15_830),
    "reader": (17_838, 17_038, 16_980),
    "launcher": (17_170,),
    "rest": (58_238,),
}
WHAT = {
    "trusted core": "the gateway's process: holds the identity keys, and lets anything out",
    "trust base of DP": "the locked processes that clip, noise and account, without the base models",
    "reader": "the process that opens a view of the owner's data",
    "launcher": "the process that starts a worker, locks it in and watches it: no key, no row",
    "rest": "base models, methods, the platform, the command line",
}
_PROCESSES = {
    "trusted core": """
import plasmid.gateway.process, plasmid.gateway.node
from plasmid.dp import accountant, noise
accountant.dp_sgd_noise(rate=0.5, steps=10, epsilon=8.0, delta=1e-5)
accountant.plan_shared_noise(length=9, bound=1.0, sites=3, honest=2, sensitivity=1.0, releases=1, rate=1.0,
                             epsilon=8.0, delta=1e-5)
noise.skellam(9, 1e6)
""",
    "trust base of DP": """
import plasmid.worker.dp, plasmid.dp.accountant_child, plasmid.dp.accounting, plasmid.dp.skellam
import plasmid.dp.canary_bound
""",
    "reader": "import plasmid.data.reader\n",
    "launcher": "import plasmid.isolation.launcher_child\n",
}
_TOLD = """
import json, sys
own = [m for n, m in list(sys.modules.items()) if n.startswith("plasmid.") and getattr(m, "__file__", None)]
files = sorted({module.__file__ for module in own})
print(json.dumps({"files": files, "tops": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@dataclass(frozen=True)
class Ring:
    """Modules and lines of code of one ring, and the packages that its process has imported."""

    name: str
    files: frozenset[Path]
    lines: int
    within: int
    """Its lines and those of the rings inside it, which are what a bound is of."""
    imported: frozenset[str] = frozenset()

    @property
    def bound(self) -> int:
        """The bound in force."""
        return BOUNDS[self.name][-1]


def code_lines(text: str) -> int:
    """Return the lines of Python *text* that hold code."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):  # docstrings, of attributes too
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            held -= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    return len(held)


_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def rings() -> list[Ring]:
    """Return every ring, from the innermost one; each file of the four roots is in one."""
    every = frozenset(path for root in ROOTS for path in (REPOSITORY / root / "plasmid").rglob("*.py"))
    seen: frozenset[Path] = frozenset()
    found = []
    for name, program in _PROCESSES.items():
        told = _imports(program)
        files = frozenset(Path(file) for file in told["files"]) - seen
        seen |= files
        found.append(Ring(name, files, _lines(files), _lines(seen), frozenset(told["tops"])))
    return [*found, Ring("rest", every - seen, _lines(every - seen), _lines(every))]


def _lines(files: frozenset[Path]) -> int:
    return sum(code_lines(path.read_text(encoding="utf-8")) for path in files)


def _imports(program: str) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", program + _TOLD], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


FIRST = "| ring | modules | lines of code |"


def table(found: list[Ring]) -> str:
    """Return the table of the page."""
    lines = [f"{FIRST} what |", "|---|---|---|---|"]
    lines += [
        f"| {one.name} | {len(one.files)} | {one.lines:,} | {WHAT[one.name]} <!-- no promise --> |"
        for one in found
    ]
    return "\n".join(lines) + "\n"


def page(found: list[Ring]) -> str:
    """Return docs/gateway.md with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    begin = text.index(FIRST)
    return text[:begin] + table(found) + text[text.index("\n\n", begin) + 1 :]


if __name__ == "__main__":
    PAGE.write_text(page(rings()), encoding="utf-8")
