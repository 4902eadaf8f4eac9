"""The modules that a gateway imports stay free of the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

LIGHT = (
    "bases.specs bases.catalogue bases.store adapters.adapter adapters.artifact adapters.card bases.tensors "
    "bases.architectures bases.residues tasks.metrics bases.importer"
)
HEAVY = {"torch", "transformers", "peft", "accelerate", "sklearn", "ray", "flwr"}


def test_no_heavy_library_is_imported() -> None:
    names = LIGHT.split()
    code = f"import sys\nfor name in {names!r}: __import__('plasmid.' + name)\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert HEAVY & set(loaded) == set()
