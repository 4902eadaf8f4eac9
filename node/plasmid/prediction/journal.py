"""What a prediction has done so far: part files, and a journal that says which of them are whole.

    OUT.parts/journal.jsonl    {"settings": {...}}, then {"rows": n, "notices": [...]}, then one line a block:
                               {"block": i, "rows": n, "cut": m, "sha256": ...}
    OUT.parts/00000007.arrow   the scores of block 7
    OUT.parts/lock             held by the process that predicts

Rules
-----
1. A block counts once its line is in the journal and its part has the digest that the line names; a part
   without a line, or that is damaged, is computed again. A line without its end is what a killed process
   left: it is cut off.
2. A prediction goes on only under the settings that it was begun with; what differs is told.
3. One process at a time.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import StorageError, UsageError
from plasmid.core.files import storage_error, write_atomic
from plasmid.prediction.inputs import Checked

WORDS = {
    "adapter": "adapter",
    "data_sha256": "content of the data",
    "data_bytes": "size of the data in bytes",
    "columns": "mapped columns",
    "keep": "kept columns",
    "block_rows": "rows of a block",
}
"""What a person calls the settings."""


@dataclass(frozen=True)
class Part:
    """The scores of one block.

    Attributes
    ----------
    table
        Kept columns, then the columns of the answers: a float32 one for each label, say.
    cut
        Rows that were longer than the adapter reads.
    """

    number: int
    table: pa.Table
    cut: int


class Journal:
    """The journal in *folder*; open it with :func:`opened`."""

    def __init__(self, folder: Path, mode: int) -> None:
        self._folder, self._mode = folder, mode
        self._path = folder / "journal.jsonl"
        self.checked: Checked | None = None
        self.done: dict[int, dict[str, Any]] = {}

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Take up what is there, or begin.

        Raises
        ------
        UsageError
            ``usage.prediction_differs``: it was begun under other settings.
        StorageError
            ``storage.prediction_damaged``: the journal is none.
        """
        lines = self._lines()
        if not lines:
            self._write({"settings": dict(settings)})
            return
        self._compare(lines[0]["settings"], settings)
        for line in lines[1:]:
            if "block" not in line:
                self.checked = Checked(line["rows"], tuple(line["notices"]))
            elif self._whole(line):
                self.done[line["block"]] = line

    def check(self, checked: Checked) -> None:
        """Note what was learned of all rows."""
        self.checked = checked
        self._append({"rows": checked.rows, "notices": list(checked.notices)})

    def add(self, part: Part) -> None:
        """Keep the scores of a block. Raises StorageError."""
        content = io.BytesIO()
        with pa.ipc.new_file(content, part.table.schema) as out:
            out.write_table(part.table)
        data = content.getvalue()
        write_atomic(self._part(part.number), data, mode=self._mode, lasting=False)
        line = {
            "block": part.number,
            "rows": part.table.num_rows,
            "cut": part.cut,
            "sha256": sha256_hex(data),
        }
        self._append(line)
        self.done[part.number] = line

    def parts(self) -> Iterator[pa.Table]:
        """Yield the scores of all blocks, in order."""
        for number in sorted(self.done):
            yield pa.feather.read_table(self._part(number), memory_map=False)

    @property
    def rows(self) -> int:
        """How many rows have scores."""
        return sum(line["rows"] for line in self.done.values())

    @property
    def cut(self) -> int:
        """How many of them were longer than the adapter reads."""
        return sum(line["cut"] for line in self.done.values())

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:08d}.arrow"

    def _whole(self, line: dict[str, Any]) -> bool:
        try:
            return sha256_hex(self._part(line["block"]).read_bytes()) == str(line["sha256"])
        except OSError:
            return False

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of the journal; the beginning of another one is cut off."""
        if not self._path.exists():
            return []
        text = self._path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            sound = bool(lines) and isinstance(lines[0]["settings"], dict)
            for line in lines[1:]:
                sound = (
                    sound and ({"block", "cut", "sha256"} if "block" in line else {"notices"}) <= line.keys()
                )
                sound = sound and isinstance(line["rows"], int)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise StorageError(
                "storage.prediction_damaged",
                f"{self._path} is no journal of a prediction.",
                f"Delete {self._folder} to begin again.",
            )
        if whole != text:
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        return lines

    def _compare(self, begun: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        differs = [
            f"{WORDS.get(name, name)}: was {_shown(begun.get(name))}, is {_shown(settings.get(name))}"
            for name in dict.fromkeys([*begun, *settings])
            if begun.get(name) != settings.get(name)
        ]
        if differs:
            raise UsageError(
                "usage.prediction_differs",
                "\n  ".join([f"{self._folder} holds a prediction that was begun otherwise:", *differs]),
                f"Go on as it was begun, choose another --out, or delete {self._folder} to begin again.",
            )

    def _write(self, line: dict[str, Any]) -> None:
        write_atomic(self._path, _text(line), mode=self._mode)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(_text(line))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self._path) from error


@contextmanager
def opened(folder: Path, settings: Mapping[str, Any], *, mode: int = 0o644) -> Iterator[Journal]:
    """Yield the journal of the prediction in *folder*, which this process alone has until the block ends.

    Parameters
    ----------
    mode
        Of every file; a folder that is only its owner's for 0600.

    Raises
    ------
    StorageError
        ``storage.in_use``: another process has it; it cannot be written.
    As :meth:`Journal.begin`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if mode == 0o600 else 0o755)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise storage_error(error, folder) from error
    with lock:
        _hold(lock, folder)
        journal = Journal(folder, mode)
        journal.begin(settings)
        yield journal


def _hold(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held = True
    else:
        held = False
    if held:
        raise StorageError(
            "storage.in_use",
            f"another process predicts into {folder}.",
            "Wait for it to end, or choose another --out.",
        )


def _text(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _shown(value: Any) -> str:
    text = "(not said)" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
