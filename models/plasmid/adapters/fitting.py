"""Whether an adapter can answer here on a base model, asked before a tensor of it is read. No torch.

Rules
-----
1. The base's id and digest must be the ones that the adapter was made for. The digest covers the
   tokenizer's files.
2. A vocabulary that the adapter brings must be the base's, byte by byte.
3. What its covariates need must be installed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from plasmid.adapters.files import HeadFile
from plasmid.bases.store import BaseModel
from plasmid.core import extras
from plasmid.core.errors import ModelError

_VOCABULARIES = ("tokenizer.json", "vocab.txt")


def check_fits(about: HeadFile, folder: Path, base: BaseModel) -> None:
    """Refuse the adapter in *folder*, whose ``head.json`` says *about*, if it isn't one of *base*.

    Raises
    ------
    ModelError
        ``model.base_differs``: it was made for another base model, or other weights of it;
        ``model.vocabulary_differs``: it brings a vocabulary that is not the base's, or reads other input.
    DataError
        ``data.library_missing``.
    """
    made_for = about.base
    if (made_for.id, made_for.digest) != (base.id, base.digest):
        raise ModelError(
            "model.base_differs",
            f"the adapter was made for {made_for.id} with digest {made_for.digest}, "
            f"the base model here is {base.id} with digest {base.digest}.",
            "Serve it on the base that it was made for.",
        )
    if (about.kind, about.spaced) != (base.entry.input, base.entry.spaced):
        raise _other_vocabulary(
            f"{about.kind} (blanks between letters: {about.spaced})",
            f"{base.entry.input} (blanks between letters: {base.entry.spaced})",
        )
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            brought, own = _digest(folder / name), _digest(base.path / name)
            if brought != own:
                raise _other_vocabulary(f"{name} {brought}", f"{name} {own}")
    for module in about.head.needs:
        extras.check_installed(module)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "(none)"


def _other_vocabulary(brought: str, own: str) -> ModelError:
    return ModelError(
        "model.vocabulary_differs",
        f"the adapter reads {brought}, the base model here {own}.",
        "Its tokens would mean something else: serve it on the base that it was made for.",
    )
