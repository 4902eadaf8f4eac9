"""The overlap guard: what left about one set of people, and a query about nearly the same ones.

Rules
-----
1. Of every statistic that left without differential privacy the site keeps which people each released cell
   and margin was about, as keyed hashes; of one population in one folder. It keeps no value.
2. A new one is refused where :func:`plasmid.disclosure.differencing.conflict` finds that a difference of sums
   is about fewer than ``least`` people. A repeat about the very same sets passes: it is told the same
   numbers.
3. Sets are kept before anything leaves, and never dropped: what left stays known. Check and keep are
   one step under a lock, so that two runs at once see one another.
4. A file that is damaged refuses everything (fail closed).
5. A person is a keyed hash of 8 bytes under the site's own secret: the folder alone tells no one who was in a
   cell. With 10^6 people the chance that two share one is 3e-8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import PolicyRefused, StorageError
from plasmid.core.files import locked, storage_error, write_atomic
from plasmid.disclosure.differencing import Keys, Sets, conflict, sets_of

_FORM = "plasmid-overlap-1"
_SUFFIX = ".people"
_ALIGN = 64


def with_margins(
    keys: Keys, cells: NDArray[np.int64], shape: tuple[int, ...], suppressed: NDArray[np.bool_]
) -> dict[str, Keys]:
    """Return the people of each released cell of a table, and of every margin over released cells.

    Parameters
    ----------
    keys, cells
        Of each record: its person's key, and the number of its cell in the flat table.
    suppressed
        Bool [\\*shape].

    Names are the positions along the axes, as ``1,0``; a margin has ``*`` for an axis that is summed.
    """
    kept = ~suppressed.ravel()[cells]
    keys, places = keys[kept], np.array(np.unravel_index(cells[kept], shape))
    found: dict[str, Keys] = {}
    if not keys.size:
        return found
    for summed in np.ndindex(*(2,) * len(shape)):
        own = [axis for axis, is_summed in enumerate(summed) if not is_summed]
        code = np.zeros(keys.size, np.int64)
        for axis in own:
            code = code * shape[axis] + places[axis]
        order = np.argsort(code, kind="stable")
        codes, starts = np.unique(code[order], return_index=True)
        for at, part in zip(codes, np.split(keys[order], starts[1:]), strict=True):
            position = iter(np.unravel_index(at, [shape[axis] for axis in own]) if own else ())
            name = ",".join("*" if is_summed else str(int(next(position))) for is_summed in summed)
            found[name] = np.unique(part)
    return found


class Overlap:
    """The sets of people that statistics of one population were about. Safe across processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, cells: Mapping[str, Keys], least: int) -> None:
        """Refuse *cells* (keys of people by name; of margins, the name holds ``*``) that differ by too few.

        Raises
        ------
        PolicyRefused
            ``policy.overlap``: from what left before, by 1 to *least* - 1 people.
        StorageError
            ``storage.lineage_damaged``, ``storage.*``.
        """
        new = sets_of(cells)
        if not new.names or self._path(new).exists():
            return
        for path in self._kept():
            if conflict(_read(path), new, least) is not None:
                raise PolicyRefused(
                    "policy.overlap",
                    f"this query and one that was answered before differ by fewer than {least} people"
                    " in some cell, so that their difference would be about those few.",
                    "Ask about the same people, or about clearly other ones, or under a privacy unit.",
                )

    def keep(self, run: str, digest: str, cells: Mapping[str, Keys]) -> None:
        """Keep *cells*, which are about to leave in *run* of the document *digest*; once is enough.

        Raises
        ------
        StorageError
        """
        sets = sets_of(cells)
        if sets.names and not self._path(sets).exists():
            write_atomic(self._path(sets), _to_bytes(sets, run=run, digest=digest), mode=0o600)

    def claim(self, run: str, digest: str, cells: Mapping[str, Keys], least: int) -> None:
        """Check and keep in one step. Raises what both raise."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self._folder) from error
        with locked(self._folder / "overlap"):
            self.check(cells, least)
            self.keep(run, digest, cells)

    def _kept(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    def _path(self, sets: Sets) -> Path:
        arrays = (sets.keys, sets.classes, sets.member_class, sets.member_set)
        content = hashlib.sha256(json.dumps(sets.names).encode())
        for array in arrays:
            content.update(array.tobytes())
        return self._folder / f"{content.hexdigest()}{_SUFFIX}"


def _to_bytes(sets: Sets, *, run: str, digest: str) -> bytes:
    header = {
        "form": _FORM,
        "run": run,
        "document": digest,
        "names": list(sets.names),
        "people": int(sets.keys.size),
        "memberships": int(sets.member_class.size),
    }
    line = json.dumps(header).encode()
    line += b" " * (-(len(line) + 1) % _ALIGN) + b"\n"
    arrays = (sets.keys.astype("<u8"), *(part.astype("<u4") for part in _small(sets)))
    return line + b"".join(array.tobytes() for array in arrays)


def _small(sets: Sets) -> tuple[NDArray[np.uint32], ...]:
    return sets.classes, sets.member_class, sets.member_set


def _read(path: Path) -> Sets:
    """Return kept sets, memory-mapped: only what is compared is read from the disk."""
    try:
        mapped = np.memmap(path, np.uint8, "r")
        with path.open("rb") as file:
            line = file.readline()
        header = json.loads(line)
        people, memberships = header["people"], header["memberships"]
        if header["form"] != _FORM or mapped.size != len(line) + 12 * people + 8 * memberships:
            raise ValueError
        parts, at = [], len(line)
        for dtype, length in (
            ("<u8", people),
            *(("<u4", size) for size in (people, memberships, memberships)),
        ):
            end = at + length * np.dtype(dtype).itemsize
            parts.append(mapped[at:end].view(dtype))
            at = end
        return Sets(tuple(header["names"]), *parts)
    except OSError as error:
        raise storage_error(error, path) from error
    except (ValueError, KeyError, TypeError):
        problem = StorageError(
            "storage.lineage_damaged",
            f"{path} is damaged, so that it is not known what left before. Nothing without a unit leaves.",
            "Restore the folder from a backup; removing the file forgets what its statistic was about.",
        )
    raise problem
