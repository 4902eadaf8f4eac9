"""The method of 'plasmid recipes new --method', installed for one test, without pip."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from plasmid.computations import api
from plasmid.recipes import templates
from support.servers import warm

NAME = "own_method_of_a_test"


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, name: str = NAME, value: str | None = None
) -> Path:
    """Write the template to *folder*, make it importable with its entry point, and return its folder."""
    made = templates.write(name.replace("_", "-"), None, folder)
    points = f"[{api.GROUP}]\n{name} = {value or name}\n"
    info = made / f"{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(made)
    forget()
    return made


def forget() -> None:
    """Let the next question see what is installed then; so does the next reader that starts warm."""
    api.brought.cache_clear()
    importlib.invalidate_caches()
    warm._parents.pop("plasmid.data.reader", None)
