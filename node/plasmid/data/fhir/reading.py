"""Files of resources: bundles and single ones (``.json``), NDJSON (``.ndjson``, ``.jsonl``), also ``.gz``.

Rules
-----
1. A folder is read with its subfolders, in the order of the names; files of other endings are left out and
   counted, hidden ones are not looked at.
2. NDJSON is read a line at a time, a bundle an entry at a time (:mod:`plasmid.data.fhir.document`). A line
   of more than :data:`MAX_LINE_BYTES` and a ``.json`` file of more than :data:`MAX_FILE_BYTES` are refused.
3. Damage is counted with its file and line or entry, and reading goes on with the next line or file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from plasmid.core.errors import DataError
from plasmid.data.fhir.document import Damaged, Decoder, Document, text_of
from plasmid.data.fhir.tally import Place, Tally

MAX_LINE_BYTES = 16 * 2**20
MAX_FILE_BYTES = 256 * 2**20
LINES = (".ndjson", ".jsonl")
DOCUMENTS = (".json",)
_BUNDLES = {"collection", "searchset", "history", "document", "transaction", "batch"}


class Found(NamedTuple):
    """A resource as it was read.

    Attributes
    ----------
    resource
        The decoded JSON object; empty where the resource was deleted.
    modified
        Whether it has a modifier extension or implicit rules.
    url
        ``fullUrl`` of its entry, or None.
    deleted
        ``Type/id`` that a history's entry says was deleted, or None.
    changed
        When the version was made, where only its entry says so.
    """

    place: Place
    resource: dict[str, Any]
    modified: bool = False
    url: str | None = None
    deleted: str | None = None
    changed: str | None = None


def read_files(path: Path, tally: Tally) -> Iterator[Found]:
    """Yield the resources of the file or folder *path*; count what is damaged.

    Raises
    ------
    DataError
        ``data.source_down``: the path is absent, unreadable, or holds no file of a known ending.
    """
    try:
        files = _files(path, tally)
        for file in files:
            name = str(file.relative_to(path)) if file != path else file.name
            yield from _read_file(file, name.encode(errors="replace").decode(), tally)
        return
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        reason = error.strerror
    raise DataError("data.source_down", f"{path} cannot be read: {reason}.", "Check the connection's path.")


def _files(path: Path, tally: Tally) -> list[Path]:
    if not path.is_dir():
        path.stat()
        chosen = [path] if _kind(path) else []
    else:
        inside = [one for one in sorted(path.rglob("*")) if one.is_file() and not one.name.startswith(".")]
        chosen = [one for one in inside if _kind(one)]
        if len(chosen) < len(inside):
            what = "files with another ending than .json, .ndjson or .jsonl (.gz), left out"
            tally.add("notice.fhir_files", what, count=len(inside) - len(chosen))
    if not chosen:
        raise DataError(
            "data.source_down",
            f"{path} holds no file ending in .json, .ndjson or .jsonl, with or without .gz.",
            "Check the connection's path.",
        )
    return chosen


def _kind(path: Path) -> str | None:
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    return ending if ending in LINES + DOCUMENTS else None


def _read_file(path: Path, name: str, tally: Tally) -> Iterator[Found]:
    compressed = path.name.lower().endswith(".gz")
    with cast("IO[bytes]", gzip.open(path, "rb")) if compressed else path.open("rb") as file:
        try:
            if _kind(path) in LINES:
                yield from _lines(file, name, tally)
            else:
                yield from _document(file, name, tally)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            tally.add("data.fhir_damaged", "a gzip file that is cut off or damaged", Place(name, "", 0))


def _lines(file: IO[bytes], name: str, tally: Tally) -> Iterator[Found]:
    number, decoder = 0, Decoder()
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = Place(name, "line", number)
        if len(line) > MAX_LINE_BYTES:
            what = f"a line of more than {MAX_LINE_BYTES >> 20} MiB, which ends the reading of its file"
            tally.add("data.fhir_damaged", what, place)
            return
        if line.isspace():
            continue
        try:
            resource = decoder.whole(text_of(line))
        except Damaged as damage:
            tally.add("data.fhir_damaged", str(damage), place)
            continue
        if not isinstance(resource, dict):
            tally.add("data.fhir_damaged", "no JSON object", place)
        elif resource.get("resourceType") == "Bundle":
            tally.add("data.fhir_bundle", "a bundle within NDJSON", place)
        else:
            yield Found(place, resource, decoder.modified)
    if number == 0:
        tally.add("data.fhir_damaged", "an empty file", Place(name, "", 0))


def _document(file: IO[bytes], name: str, tally: Tally) -> Iterator[Found]:
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        what = f"a .json file of more than {MAX_FILE_BYTES >> 20} MiB (NDJSON has no such limit)"
        tally.add("data.fhir_damaged", what, Place(name, "", 0))
        return
    if not content.strip():
        tally.add("data.fhir_damaged", "an empty file", Place(name, "", 0))
        return
    yield from read_document(content, name, tally)


def read_document(content: bytes, name: str, tally: Tally) -> Generator[Found, None, dict[str, Any]]:
    """Yield the resources of one JSON text called *name*; return the head of a bundle, or {}."""
    number = 0
    try:
        document = Document(text_of(content))
        for number, entry in enumerate(document.entries(), start=1):
            found = _entry(entry, Place(name, "entry", number), tally)
            if found:
                yield found._replace(modified=document.modified)
    except Damaged as damage:
        tally.add(
            "data.fhir_damaged",
            str(damage),
            Place(name, "entry", number + 1) if number else Place(name, "", 0),
        )
        return {}
    head = document.head
    if head.get("resourceType") != "Bundle":
        yield Found(Place(name, "", 0), head, document.modified)
        return {}
    kind = head.get("type")
    if not isinstance(kind, str) or kind not in _BUNDLES:
        what = "a bundle that holds answers or messages (batch-response, message, ...)"
        tally.add("data.fhir_bundle", what, Place(name, "", 0))
    return head


def _entry(entry: Any, place: Place, tally: Tally) -> Found | None:
    if not isinstance(entry, dict):
        tally.add("data.fhir_damaged", "a bundle's entry that is no object", place)
        return None
    resource, url = entry.get("resource"), entry.get("fullUrl")
    request = entry.get("request")
    method = request.get("method") if isinstance(request, dict) else None
    response = entry.get("response")
    changed = response.get("lastModified") if isinstance(response, dict) else None
    url = url if isinstance(url, str) and url.isascii() else None
    if method == "DELETE" and isinstance(target := request.get("url"), str) and target.isascii():  # type: ignore[union-attr]
        return Found(place, {}, False, url, target, changed)
    if resource is None:
        tally.add("notice.fhir_skipped", "entries without a resource, left out", place)
        return None
    if not isinstance(resource, dict):
        tally.add("data.fhir_damaged", "a bundle's entry whose resource is no object", place)
        return None
    if resource.get("resourceType") == "Bundle":
        tally.add("data.fhir_bundle", "a bundle within a bundle", place)
        return None
    return Found(place, resource, False, url, None, changed)
