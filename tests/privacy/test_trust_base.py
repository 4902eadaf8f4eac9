"""The files that an epsilon rests on: found by what imports what, named in docs/privacy.md, and few."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import plasmid.core.errors
import plasmid.dp.noise
import plasmid.lora.samples

REPOSITORY = Path(__file__).parents[2]
ROOTS = [REPOSITORY / name for name in ("node", "recipes", "models")]
ENDS = (
    "plasmid.dp.accountant_child",  # what noise costs
    "plasmid.planner.attempts",  # how much noise, over how many releases
    "plasmid.gateway.site_parameters",  # rate and noise of a site
    "plasmid.gateway.output",  # shared noise
    "plasmid.gateway.noise_check",  # the look at a worker's noise
    "plasmid.gateway.ledger",  # what was spent
    "plasmid.worker.dp",  # sample, clip and noise
    "plasmid.worker.engine",  # what calls them
    "plasmid.lora.layer",  # each row's gradient of a factor
)
WITHIN = (
    "plasmid.dp.",
    "plasmid.gateway.ledger_chain",
    "plasmid.secagg.",
    "plasmid.lora.",
    "plasmid.isolation.lockdown",
)
"""What is followed: the arithmetic of privacy and of gradients; not the model, the messages, the recipe."""
LIMIT_LINES = 4_600


def file_of(module: str) -> Path:
    (found,) = [path for root in ROOTS if (path := root / (module.replace(".", "/") + ".py")).exists()]
    return found


def imported(path: Path) -> set[str]:
    """Return the modules of ours that *path* imports when it runs, in functions too."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {
        name for name in found if any((root / (name.replace(".", "/") + ".py")).exists() for root in ROOTS)
    }


def trust_base() -> dict[str, int]:
    """Return the lines of each file, by its path in the repository."""
    found: dict[str, int] = {}
    left = list(ENDS)
    while left:
        path = file_of(left.pop())
        name = str(path.relative_to(REPOSITORY))
        if name not in found:
            found[name] = len(path.read_text(encoding="utf-8").splitlines())
            left += [module for module in imported(path) if module.startswith(WITHIN)]
    return found


def test_the_page_names_every_file_of_the_trust_base_and_its_length() -> None:
    text = (REPOSITORY / "docs" / "privacy.md").read_text(encoding="utf-8")
    section = text.split("### What epsilon rests on")[1].split("\n## ")[0].split("\n### ")[0]
    found = trust_base()
    assert set(re.findall(r"`((?:node|models|recipes)/[\w/]+\.py)`", section)) == set(found)
    (said,) = re.findall(r"([\d,]+) lines", section)
    assert abs(int(said.replace(",", "")) - sum(found.values())) < 0.05 * sum(found.values())
    assert f"{len(found)} files" in section


def test_it_stays_small_enough_to_be_read() -> None:
    assert sum(trust_base().values()) <= LIMIT_LINES


def test_it_is_found_by_imports() -> None:
    """The control: what draws, clips and accounts is among it, what does none of it is not."""
    found = trust_base()
    for module in (plasmid.dp.noise, plasmid.lora.samples):
        assert module.__file__ is not None
        assert str(Path(module.__file__).relative_to(REPOSITORY)) in found
    assert not [name for name in found if name.startswith(("node/plasmid/uplink", "node/plasmid/data"))]
    assert plasmid.core.errors.__file__ is not None
    assert "models/plasmid/core/errors.py" not in found
