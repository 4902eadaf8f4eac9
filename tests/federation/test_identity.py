"""flwr's private parts are touched in one file."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}


def imported(file: Path) -> set[str]:
    """Return the modules of flwr that *file* imports, with what it takes from them where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if any(alias.name.startswith("_") for alias in node.names):
                found.add(f"{node.module}._private")
    return {name for name in found if name.split(".")[0] == "flwr"}


def test_only_one_file_imports_a_private_module_of_flwr() -> None:
    by_file = {
        str(file.relative_to(REPOSITORY)): imported(file)
        for root in ("platform", "node", "recipes", "models")
        for file in (REPOSITORY / root).rglob("*.py")
    }
    private = {name: modules - PUBLIC for name, modules in by_file.items() if modules - PUBLIC}
    adapter = "node/plasmid/worker/flower.py"
    assert private == {adapter: {"flwr.supercore.task_identity"}}
    others = {name.rpartition("/")[0] for name, modules in by_file.items() if modules and name != adapter}
    assert others == {"platform/plasmid/strategies"}


def test_the_identity_is_what_a_message_needs() -> None:
    """In a process of its own, since it is set once: first without it, then with it."""
    code = (
        "from flwr.app import Message, RecordDict\n"
        "from plasmid.strategies.grid import SUM_NODE\n"
        "from plasmid.worker.flower import assume_identity\n"
        "def make(): return Message(RecordDict(), dst_node_id=SUM_NODE, message_type='train', group_id='1')\n"
        "try: make()\n"
        "except RuntimeError as error: print(error)\n"
        "assume_identity()\n"
        "print(make().metadata.dst_node_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert "is not set" in first
    assert second == "2"
