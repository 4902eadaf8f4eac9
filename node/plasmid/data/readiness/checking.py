"""Is a view ready? All of it is read as a run would read it, and nothing leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from plasmid.core import extras
from plasmid.core.errors import DataError
from plasmid.data.findings import Tally
from plasmid.data.parsing import Finding, Mask
from plasmid.data.readiness.report import Readiness, Report, Roles
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.snapshot import row_keys
from plasmid.data.views.rows import Rows, held_out, wanted_columns
from plasmid.data.views.viewing import open_source, query_of, transforms_of
from plasmid.recipes.documents import patient_of, unit_of

PROGRESS_S = 2.0


@dataclass(frozen=True)
class Checked:
    """What a view is like.

    Attributes
    ----------
    report
        Without anything that identifies a row.
    steps
        What each transform does, in a sentence, and what it did.
    notices
        What its owner should know beside the report.
    problem
        Why a run would refuse the view, with where the first row of each kind stands; None if it would not.
    """

    report: Report
    steps: tuple[tuple[str, dict[str, int]], ...]
    notices: tuple[str, ...]
    problem: DataError | None


@extras.told()
def check_view(
    view: ViewFile,
    connections: Connections,
    document: Any,
    *,
    folder: Path,
    path: Path | None,
    scratch: Path,
    key: bytes,
    today: date,
    progress: Callable[[int], None],
) -> Checked:
    """Return what the view of a parsed *document* is like.

    Raises
    ------
    DataError
        The source cannot be reached or asked; ``data.library_missing``. What is wrong with rows is returned.
    """
    contract, data = document.contract, getattr(document, "data", None)
    patient = patient_of(document)
    unit = unit_of(document)
    wanted, tally = wanted_columns(contract, labels=True), Tally(leaves_out=unit != "none")
    roles = Roles(getattr(data, "input", None), getattr(data, "label", None), patient)
    readiness = Readiness(contract, roles, key, leaves_out=tally.leaves_out)
    chain = transforms_of(view, wanted, folder, key=key, patient=patient, unit=unit)
    source = open_source(view, connections, folder, path=path, scratch=scratch, leaves_out=tally.leaves_out)
    told = time.monotonic()
    holdout = getattr(data, "holdout", None)

    def watch(raw: pa.RecordBatch, valid: pa.RecordBatch, findings: dict[str, dict[Finding, Mask]]) -> None:
        nonlocal told
        out = None
        if holdout is not None:
            out = np.asarray(held_out(valid, row_keys(valid), holdout, patient))
        readiness.feed(raw, valid, findings, out)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            progress(rows.read)

    try:
        query = query_of(source, view, document, wanted, tally, today=today)
        what = str(path) if view.source is None else f"the view of {view.source}"
        rows = Rows(source, query, what, wanted, contract, transforms=chain, tally=tally, watch=watch)
        problem = _read(rows)
    finally:
        source.close()
    steps = zip(chain.describe(), [counts for _, counts in chain.counts()], strict=True)
    report = readiness.report()
    if problem is not None:  # a column that is not there, say, is none of the rows'
        report = replace(report, verdict="not ready")
    return Checked(report, tuple(steps), rows.notices, problem)


def _read(rows: Rows) -> DataError | None:
    try:
        for _ in rows:
            pass
    except DataError as error:
        return error
    return None
