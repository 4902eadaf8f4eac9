"""What scripts of shipped recipes have in common: they write the recipe's tables, or compare them."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return *rows* under *columns* as UTF-8 CSV with LF."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def written(script: str, about: str | None, files: Callable[[], Mapping[str, bytes]]) -> int:
    """Write what *files* returns into ``data/`` beside *script*, or, with ``--check``, compare.

    Parameters
    ----------
    about
        The script's docstring; its first line is the help.

    Returns
    -------
    The exit status: 1 where a file was compared and differs.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    folder, differ = Path(script).with_name("data"), False
    for name, content in files().items():
        path = folder / name
        if check:
            same = path.is_file() and path.read_bytes() == content
            differ = differ or not same
            sys.stdout.write(f"{name}: {'the same' if same else 'differs'}\n")
        else:
            folder.mkdir(exist_ok=True)
            path.write_bytes(content)
            sys.stdout.write(f"{name}: {len(content)} bytes\n")
    return int(differ)
