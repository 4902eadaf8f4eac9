"""Files of identifiers and names of the site, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plasmid.core.errors import DataError

MAX_LIST_BYTES = 256 * 2**20
"""The longest file that is read."""


def read_list(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Return the lines of the file *name* of the site's *folder*, blank ones left out, with their numbers.

    Raises
    ------
    DataError
        ``data.transform_file``: it is outside the folder, cannot be read, too long or not UTF-8.
    """
    path = (folder / name).resolve()
    why = ""
    content = ""
    if not path.is_relative_to(folder.resolve()):
        why = "it is outside the site's folder"
    else:
        try:
            if path.stat().st_size > MAX_LIST_BYTES:
                why = f"it is larger than {MAX_LIST_BYTES // 2**20} MiB"
            else:
                content = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            why = "it is not UTF-8"
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "its name is not a file's"
    if why:
        raise DataError(
            "data.transform_file", f"cannot read {name}: {why}.", "Put the list there, or correct its name."
        )
    lines = enumerate(content.splitlines(), start=1)
    return ((number, line.strip()) for number, line in lines if line.strip())
