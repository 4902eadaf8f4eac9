"""A prediction at a site, on the rows of a view that its owner has written.

Rules
-----
1. The view is opened as for a run, by the reader's process, with its mapping, checks and transforms; rows
   that the recipe holds out of training are scored, too. Nothing leaves the site.
2. The audit log has ``view.opened``, with the adapter's digest, before the first row is read. Where it
   cannot be written, nothing is read.
3. Scores stay in the site's folder, in files that only its user may read. Their order is that of the
   snapshot, which says nothing of the source's: the columns that are kept tell whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from plasmid.adapters.files import HeadFile
from plasmid.core.errors import DataError, UsageError
from plasmid.data.snapshot import Snapshot
from plasmid.gateway.home import SiteHome
from plasmid.gateway.open_view import open_view
from plasmid.gateway.views import described, slice_of
from plasmid.log.audit_log import AuditLog
from plasmid.prediction.inputs import ViewInput, check_kept, contract_of
from plasmid.prediction.joining import check_ending
from plasmid.recipes.columns import AnyColumn, IdentifierColumn
from plasmid.recipes.load import Parsed, ResolvedRecipe
from plasmid.recipes.schema import Recipe

MODE = 0o600


def scores_file(home: SiteHome, name: str, adapter: str, out: Path | None) -> Path:
    """Return where the scores of the view *name* by *adapter*, a digest, go.

    Parameters
    ----------
    out
        A file below the site's folder; None is one in ``predictions/``.

    Raises
    ------
    UsageError
        ``usage.predict_out``: it is not, or no name of such a file.
    StorageError
        The folder cannot be made.
    """
    if out is None:
        folder = home.folder / "predictions"
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder / f"{name}-{adapter[:12]}.parquet"
    check_ending(out)
    if not out.resolve().is_relative_to(home.folder.resolve()):
        raise UsageError(
            "usage.predict_out",
            f"{out} is outside the site's folder {home.folder}, where scores of a view stay.",
            "Leave out --out, or name a file below that folder.",
        )
    return out


def opened_view(
    home: SiteHome,
    recipe: ResolvedRecipe,
    about: HeadFile,
    adapter: str,
    *,
    keep: Sequence[str] = (),
    progress: Callable[[int], None],
) -> ViewInput:
    """Return the rows of the view of *recipe* for the adapter *about*, whose digest is *adapter*.

    Parameters
    ----------
    keep
        Columns of the recipe's contract; where none is named, its identifier, else all but the label.
    progress
        Called about every second with the rows read so far.

    Raises
    ------
    DataError
        ``data.column_missing``: the view has no such column as the adapter reads; as
        :func:`plasmid.gateway.open_view.open_view`.
    UsageError
        ``usage.predict_column``: *keep* names no column of the recipe.
    StorageError
        The log cannot be written.
    """
    document = recipe.parsed
    columns = document.contract.columns
    _check_fits(about, columns, document.name)
    strange = sorted(set(keep) - columns.keys())
    if strange:
        raise UsageError(
            "usage.predict_column",
            f"the recipe {document.name} has no column {', '.join(strange)}.",
            f"It has {', '.join(columns)}.",
        )
    persons = [name for name, one in columns.items() if isinstance(one, IdentifierColumn)]
    others = [name for name in columns if document.contract.is_given(name)]
    kept = tuple(dict.fromkeys(keep or persons or others))
    check_kept(kept, about)
    part = slice_of(home, document)
    AuditLog(home.audit).write(
        "view.opened",
        actor="owner",
        object=described(part, document).digest(),
        reason="a prediction at this site; nothing leaves",
        recipe=recipe.digest,
        source=part.source,
        columns=sorted(columns),
        population=part.population,
        adapter=adapter,
    )
    opened = open_view(home, part, _whole(document), progress=progress)
    assert opened.descriptor is not None, "a snapshot was asked for"
    assert opened.digest is not None, "the same"
    return ViewInput(Snapshot(opened.descriptor), opened.digest, opened.notices, kept)


def _whole(document: Parsed) -> Parsed:
    """Return *document* without what it holds out of training: those rows are to be scored, too."""
    if not isinstance(document, Recipe):
        return document
    return document.model_copy(update={"data": document.data.model_copy(update={"holdout": None})})


def _check_fits(about: HeadFile, columns: Mapping[str, AnyColumn], name: str) -> None:
    reads = [about.input, *(one.name for one in about.head.covariates)]
    own = contract_of(about).columns
    absent = [one for one in reads if one not in columns or columns[one].type != own[one].type]
    if absent:
        raise DataError(
            "data.column_missing",
            f"the recipe {name} has no column {', '.join(f'{one} ({own[one].type})' for one in absent)}, "
            "which the adapter reads.",
            "Name the recipe that the adapter was trained with, or one of the same columns.",
        )
