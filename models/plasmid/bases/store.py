"""Imported base models on disk: opened offline, and only when every byte is as it was recorded.

Rules
-----
1. A model lives in ``<home>/models/<id>/<revision>/``: ``config.json``, ``model.safetensors``, the
   tokenizer's files, and ``plasmid.json``, which records them.
2. Its digest is over the names and SHA-256 of exactly those files. A file that was changed, added or
   removed, and a digest other than the catalogue's or the caller's, are refused.
3. Opening imports no torch; converting does, so :func:`ensure_model` has a child process do it.
4. A model that is not here comes from Plasmid itself, or its wheel; where that is not installed, from the
   hub of ``HF_ENDPOINT``, by revision or digest, never by name alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plasmid.bases.catalogue import (
    RECORD,
    About,
    described,
    get,
    models_folder,
    not_here,
    read_record,
    shipped,
)
from plasmid.bases.tensors import TensorInfo, read_header
from plasmid.core.canonical import digest_json
from plasmid.core.errors import ModelError, PlasmidError, from_dict

IMPORT_TIMEOUT_S = 900
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class BaseModel:
    """An imported base model.

    Attributes
    ----------
    path
        The folder that ``transformers.AutoModel.from_pretrained`` takes.
    """

    id: str
    revision: str
    digest: str
    path: Path
    entry: About = field(hash=False)

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        """The tensors of the weights by name, without their values; read once.

        Raises
        ------
        ModelError
            ``model.tensors_invalid``.
        """
        return read_header(self.path / "model.safetensors")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What its ``config.json`` says."""
        found: dict[str, Any] = json.loads((self.path / "config.json").read_bytes())
        return found


def model_folder(model_id: str, revision: str) -> Path:
    """Return where that revision is kept once it is imported.

    Raises
    ------
    ModelError
        ``model.unknown``: one of the two cannot be a name, and no path is made of it.
    """
    for name in (model_id, revision):
        if not _NAME.fullmatch(name):
            raise ModelError(
                "model.unknown",
                f"{name!r} is no name of a base model or of a revision.",
                "Letters, digits, dots, dashes and underscores, at most 63, the first a letter or digit.",
            )
    return models_folder() / model_id / revision


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each file of *folder* by name, the record left out."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name != RECORD:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def open_model(
    model_id: str, *, revision: str | None = None, digest: str | None = None, verify: bool = True
) -> BaseModel:
    """Return an imported model.

    Parameters
    ----------
    revision
        None is the catalogue's.
    digest
        The digest that the caller (a recipe, an adapter) was made for; None is the catalogue's.
    verify
        False trusts the record instead of hashing the files again.

    Raises
    ------
    ModelError
        ``model.unknown``; ``model.not_imported``; ``model.digest_differs``: a file isn't as it was
        recorded, or the digest isn't the one that was asked for.
    """
    wanted = revision or get(model_id).revision
    folder = model_folder(model_id, wanted)
    record = read_record(folder)
    if record is None:
        entry = get(model_id)
        source = model_id if entry.installed else f"FOLDER --id {model_id}"
        raise ModelError(
            "model.not_imported",
            f"the base model {model_id} {wanted} is not imported in {models_folder()}.",
            f"Run 'plasmid models import {source}'.",
        )
    if verify:
        _check_files(folder, record.files)
    found = digest_json(record.files)
    if digest is None:
        entry = get(model_id)
        digest = entry.digest if wanted == entry.revision else record.entry.digest
    if found != digest:
        raise ModelError(
            "model.digest_differs",
            f"the base model {model_id} {wanted} has digest {found[:16]}..., {digest[:16]}... was asked for.",
            "The recipe or adapter was made for other weights: import those, or use a recipe for these.",
        )
    return BaseModel(model_id, wanted, found, folder, record.entry)


def check_pinned(model_id: str, digest: str | None) -> None:
    """Raise ModelError (``model.unpinned``) if a document names a described base without its *digest*.

    Whoever resolved it had no weights, so that each site could run it on others.
    """
    known = described(model_id)
    if digest is None and known is not None:
        raise ModelError(
            "model.unpinned",
            f"the recipe names the base model {model_id}, of which no digest of its weights is known here: "
            "it can be planned, and not run.",
            f"{not_here(known).hint} Then give the recipe again, or set model.revision and model.digest to "
            "what 'plasmid models show' says where they are.",
        )


def _check_files(folder: Path, recorded: dict[str, str]) -> None:
    try:
        found = hash_files(folder)
    except OSError as error:
        raise ModelError(
            "model.digest_differs", f"{folder} cannot be read: {error.strerror}.", "Import it again."
        ) from error
    changed = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
    if changed:
        raise ModelError(
            "model.digest_differs",
            f"in {folder} these files are not as they were imported: {', '.join(changed)}.",
            "Delete the folder and import the model again.",
        )


def ensure_model(model_id: str, *, revision: str | None = None, digest: str | None = None) -> BaseModel:
    """Return the model; one that is not there is imported or fetched first, in a child process.

    Raises
    ------
    ModelError
        As :func:`open_model`, and what :mod:`plasmid.bases.importer` raises.
    HubError
        The hub has not got it, or cannot be reached.
    """
    try:
        return open_model(model_id, revision=revision, digest=digest)
    except ModelError as error:
        if error.code not in ("model.not_imported", "model.unknown"):
            raise
        problem: PlasmidError = error
    model_folder(model_id, revision or "any")  # refuses what cannot be a name
    entry = shipped(model_id)
    if entry is not None and entry.installed and revision in (None, entry.revision):
        found = _in_child(model_id, [model_id], IMPORT_TIMEOUT_S)
        if found is None:
            return open_model(model_id, revision=revision, digest=digest)
        if getattr(found, "code", "") != "model.source_missing":
            raise found
        problem = found
    from plasmid.hubclient.client import configured_hub

    wanted = revision or (entry.revision if entry is not None else None)
    if configured_hub() is None or (wanted is None and digest is None):
        raise problem
    options = [f"--{name}={value}" for name, value in (("revision", wanted), ("digest", digest)) if value]
    found = _in_child(model_id, [model_id, "--from-hub", *options], None)
    if found is not None:
        raise found
    return open_model(model_id, revision=revision, digest=digest)


def _in_child(model_id: str, arguments: list[str], timeout_s: float | None) -> PlasmidError | None:
    """Run the importer, and return what is wrong; None as *timeout_s* waits for as long as it takes."""
    child = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "plasmid.bases.importer", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return _child_error(model_id, child.stdout, child.returncode) if child.returncode else None


def _child_error(model_id: str, output: str, status: int) -> PlasmidError:
    try:
        return from_dict(json.loads(output.strip().splitlines()[-1]))
    except (ValueError, IndexError, KeyError):
        return ModelError(
            "model.import_failed",
            f"importing {model_id} ended with status {status}.",
            f"Run 'plasmid models import {model_id}' to see why.",
        )
