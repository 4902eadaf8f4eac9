"""The tables of the sites, and the test, as files on disk.

Rules
-----
1. A site is a CSV file; the file's stem is the site's name: ``[a-z0-9_-]``, at most 63 characters, because
   it becomes the name of a folder and of a host.
2. Without a folder of the caller's own, the sites are the recipe's demonstration data: its files as they
   are, or the parts of its one file, written whole or not at all.
3. A folder of sites replaces the recipe's sites, an evaluation file its test; each on its own.
4. Every problem of a folder is told at once.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from plasmid.core.errors import DataError, RecipeError
from plasmid.core.files import folder_atomic, write_atomic
from plasmid.recipes.load import ResolvedRecipe
from plasmid.recipes.rows import open_csv
from plasmid.recipes.schema import DirichletSplit, FilesSplit
from plasmid.recipes.split import SiteRows, dirichlet_split

_SITE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def materialise_sites(
    resolved: ResolvedRecipe, target: Path, sites_dir: Path | None = None
) -> dict[str, Path]:
    """Return the table of each site by name, sorted.

    Parameters
    ----------
    target
        A folder of the caller's. The sites that are parts of one file are written to ``target/sites``.
    sites_dir
        One CSV per site, instead of the recipe's demonstration data.

    Raises
    ------
    RecipeError
        ``recipe.no_data``: the recipe has no demonstration data and *sites_dir* is None.
    DataError
        As :func:`sites_in_folder`; ``data.unreadable``; ``data.column_missing``: no label column to deal by.
    StorageError
        The disk is full or *target* cannot be written.
    """
    recipe = resolved.parsed
    if sites_dir is not None:
        return sites_in_folder(sites_dir, minimum=recipe.federation.min_sites)
    split = recipe.data.split
    if split is None:
        raise RecipeError(
            "recipe.no_data",
            f"the recipe {recipe.name} ships no data (it has no data.split).",
            "Give --sites DIR.",
        )
    if isinstance(split, FilesSplit):
        return _named(
            [_inside(resolved, name) for name in split.train], recipe.federation.min_sites, "data.split"
        )
    header, rows, parts = _dealt(resolved, split)
    folder = target / "sites"
    with folder_atomic(folder) as partial:
        for number, part in enumerate(parts.sites, 1):
            write_atomic(partial / f"site-{number}.csv", _csv_bytes(header, (rows[row] for row in part)))
    return _named(sorted(folder.glob("*.csv")), recipe.federation.min_sites, "data.split")


def materialise_eval(resolved: ResolvedRecipe, target: Path, eval_file: Path | None = None) -> Path | None:
    """Return the table that results are scored on and nothing is trained on; None if there is none.

    Parameters
    ----------
    target
        A folder of the caller's. The recipe's own test is written to ``target/test.csv``.
    eval_file
        Replaces the recipe's own test.

    Raises
    ------
    DataError
        ``data.unreadable``: a file is not there; ``data.header_differs``: the files of the test have
        different columns.
    StorageError
        The disk is full or *target* cannot be written.
    """
    if eval_file is not None:
        with open_csv(eval_file):
            return eval_file
    split = resolved.parsed.data.split
    if split is None or (isinstance(split, FilesSplit) and not split.test):
        return None
    if isinstance(split, FilesSplit):
        data = _concatenated([_inside(resolved, name) for name in split.test])
    else:
        header, rows, parts = _dealt(resolved, split)
        data = _csv_bytes(header, (rows[row] for row in parts.test))
    path = target / "test.csv"
    write_atomic(path, data)
    return path


def sites_in_folder(folder: Path, *, minimum: int) -> dict[str, Path]:
    """Return the CSV files of *folder* by site name, sorted.

    Raises
    ------
    DataError
        ``data.no_sites``: no such folder, or no CSV file in it; ``data.too_few_sites``: fewer than
        *minimum*; ``data.site_name``: a stem that cannot be a site's name, or two that are one.
    """
    if not folder.is_dir():
        raise DataError(
            "data.no_sites", f"{folder} is not a folder.", "Give a folder that holds one CSV file per site."
        )
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.is_file())
    if not files:
        raise DataError(
            "data.no_sites",
            f"{folder} holds no CSV file.",
            "Put one CSV file per site into it; the stem is the name.",
        )
    return _named(files, minimum, str(folder))


def _named(files: Sequence[Path], minimum: int, where: str) -> dict[str, Path]:
    strange = [path.name for path in files if not _SITE_NAME.fullmatch(path.stem)]
    if strange:
        raise DataError(
            "data.site_name",
            f"{len(strange)} file(s) of {where} have no name fit for a site: {', '.join(strange[:10])}.",
            "Use 1 to 63 of a-z, 0-9, - and _ before .csv, beginning with a letter or digit.",
        )
    named = {path.stem: path for path in files}
    if len(named) < len(files):
        raise DataError(
            "data.site_name",
            f"two files of {where} name the same site.",
            "Give every site a name of its own.",
        )
    if len(named) < minimum:
        raise DataError(
            "data.too_few_sites",
            f"{where} has {len(named)} site(s), the recipe needs at least {minimum} (federation.min_sites).",
            "Add sites. With fewer than three, masks cannot hide a site from the others.",
        )
    return dict(sorted(named.items()))


def _inside(resolved: ResolvedRecipe, name: str) -> Path:
    path = (resolved.folder / name).resolve()
    if not path.is_relative_to(resolved.folder.resolve()) or not path.is_file():
        raise DataError(
            "data.unreadable",
            f"the recipe {resolved.parsed.name} names {name}, which is no file in its folder.",
            "Correct data.split, or give --sites DIR and --eval FILE.",
        )
    return path


def _dealt(resolved: ResolvedRecipe, split: DirichletSplit) -> tuple[list[str], list[list[str]], SiteRows]:
    path = _inside(resolved, split.file)
    label = resolved.recipe.data.label
    with open_csv(path) as table:
        header = table.header
        if label is not None and label not in header:
            raise DataError(
                "data.column_missing",
                f"{path.name} has no column {label!r}.",
                "Correct data.label or the file.",
            )
        rows = [cells for _, cells in table.rows]
    ragged = sum(len(cells) != len(header) for cells in rows)
    if ragged:
        raise DataError(
            "data.ragged_row",
            f"{path.name}: {ragged} row(s) have another number of cells than the header.",
            "Quote cells that hold commas.",
        )
    place = None if label is None else header.index(label)
    parts = dirichlet_split(
        resolved.recipe.task.strata(["" if place is None else cells[place] for cells in rows]),
        sites=split.sites,
        alpha=split.alpha,
        test_share=split.test_share,
        min_rows=split.min_rows,
        seed=split.seed,
    )
    return header, rows, parts


def _csv_bytes(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _concatenated(files: Sequence[Path]) -> bytes:
    header: list[str] = []
    rows: list[list[str]] = []
    for path in files:
        with open_csv(path) as table:
            if header and table.header != header:
                raise DataError(
                    "data.header_differs",
                    f"{path.name} and {files[0].name} have different columns.",
                    "Files that make up one test need the same header.",
                )
            header = table.header
            rows.extend(cells for _, cells in table.rows)
    return _csv_bytes(header, rows)
