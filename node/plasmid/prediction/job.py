"""One prediction from the first row to the last: the loop, and the engine that scores in this process.

    check all rows -> for each block that is not done: score, keep, tell -> join -> remove the parts

Rules
-----
1. An engine gets blocks and gives parts, in any order. What a block's scores are depends on its rows and
   the adapter alone, so that engines may take over from one another.
2. A process that is killed loses at most the blocks that it was at.
3. The data must be the same after the last block as they were before the first one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from plasmid.adapters.artifact import read_head
from plasmid.adapters.files import HeadFile
from plasmid.core.canonical import digest_json, sha256_hex
from plasmid.core.errors import DataError, ModelError, UsageError
from plasmid.prediction.inputs import Block, Input
from plasmid.prediction.joining import check_ending, join
from plasmid.prediction.journal import Part, opened

BLOCK_ROWS = 1024
_TYPES = {"number": pa.float32(), "text": pa.string(), "numbers": pa.list_(pa.float32())}
_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "head.safetensors",
    "head.json",
    "calibration.json",
)

Engine = Callable[[Path, Input, int, Collection[int]], Iterator[Part]]
"""(the adapter's folder, the input, rows of a block, numbers of the blocks that are done) -> their parts."""


@dataclass(frozen=True)
class Progress:
    """How far a prediction is.

    Attributes
    ----------
    done, rows
        Rows that have scores, and all.
    rate
        Rows per second since this process began to score; 0 before the first block.
    """

    done: int
    rows: int
    rate: float


@dataclass(frozen=True)
class Finished:
    """A prediction that is complete.

    Attributes
    ----------
    columns
        Of the answers: one for each label, say.
    resumed
        Rows that had their scores already when it began.
    cut
        Rows that were longer than the adapter reads.
    rate
        Rows per second, over the others.
    """

    out: Path
    rows: int
    columns: tuple[str, ...]
    notices: tuple[str, ...]
    resumed: int
    cut: int
    rate: float


class Scorer:
    """The adapter in *folder*, ready for blocks; *keep* are columns to hand on. Raises ModelError."""

    def __init__(self, folder: Path, keep: tuple[str, ...]) -> None:
        from plasmid.adapters.predict import Predictor

        self._predictor, self._keep = Predictor.load(folder), keep

    def __call__(self, block: Block) -> Part:
        """Return the scores of *block*. Raises ModelError (``model.tokenizer_unknown``)."""
        about = self._predictor.about
        names = [about.input, *(one.name for one in about.head.covariates)]
        try:
            found = self._predictor.predict({name: block.rows.column(name).to_pylist() for name in names})
        except ModelError as error:  # it counts rows from the first of the block
            raise ModelError(error.code, f"in block {block.number}: {error.message}", error.hint) from None
        columns = {name: block.rows.column(name) for name in self._keep}
        cells = about.head.table(found.answers)
        for name, shape in about.head.columns().items():
            columns[name] = pa.array(cells[name], _TYPES[shape])
        return Part(block.number, pa.table(columns), found.cut)


def local(folder: Path, source: Input, size: int, done: Collection[int]) -> Iterator[Part]:
    """Score in this process; an :data:`Engine`."""
    yield from map(Scorer(folder, source.keep), source.blocks(size, done))


def predict_to(
    out: Path,
    folder: Path,
    source: Input,
    *,
    block_rows: int = BLOCK_ROWS,
    engine: Engine = local,
    progress: Callable[[Progress], None] = lambda _: None,
    mode: int = 0o644,
) -> Finished:
    """Score all rows of *source* with the adapter in *folder* and write them to *out*, Parquet or CSV.

    Called again after it was interrupted, it goes on.

    Parameters
    ----------
    progress
        Called before the first block and after each.
    mode
        Of *out* and what is kept until it is there.

    Raises
    ------
    UsageError
        ``usage.predict_out``, ``usage.exists``; as :func:`plasmid.prediction.journal.opened`.
    DataError
        What is wrong with the rows; ``data.changed``: they are not those that it began with.
    ModelError, StorageError
        As the adapter and the disk have it.
    """
    check_ending(out)
    about, parts = read_head(folder), out.with_name(f"{out.name}.parts")
    if out.exists() and not parts.exists():
        raise UsageError("usage.exists", f"there is already {out}.", "Choose another name, or delete it.")
    adapter, identity = adapter_digest(folder), dict(source.identity())
    with opened(parts, {"adapter": adapter, "block_rows": block_rows, **identity}, mode=mode) as journal:
        if journal.checked is None:
            journal.check(source.check())
        assert journal.checked is not None
        rows, notices = journal.checked.rows, journal.checked.notices
        resumed, begun, rate = journal.rows, time.monotonic(), 0.0
        progress(Progress(resumed, rows, rate))
        if journal.rows < rows:
            for part in engine(folder, source, block_rows, set(journal.done)):
                journal.add(part)
                rate = (journal.rows - resumed) / (time.monotonic() - begun)
                progress(Progress(journal.rows, rows, rate))
            if journal.rows != rows or dict(source.identity()) != identity:
                raise _changed(parts)
        join(journal.parts(), out, _metadata(about, adapter), mode=mode)
        cut = journal.cut
        shutil.rmtree(parts, ignore_errors=True)
    if cut:
        notices = (*notices, told_cut(cut, about))
    return Finished(out, rows, tuple(about.head.columns()), notices, resumed, cut, rate)


def adapter_digest(folder: Path) -> str:
    """Return the digest of what an adapter computes with. Raises ModelError (``model.adapter_missing``)."""
    read_head(folder)
    found = {name: sha256_hex((folder / name).read_bytes()) for name in _FILES if (folder / name).is_file()}
    return digest_json(found)


def told_cut(cut: int, about: HeadFile) -> str:
    """Return the sentence about *cut* rows that were longer than the adapter reads."""
    rows = "1 row was" if cut == 1 else f"{cut} rows were"
    return (
        f"column {about.input!r}: {rows} cut to the first {about.max_length} tokens, special ones included: "
        "the adapter reads no more"
    )


def _metadata(about: HeadFile, adapter: str) -> Mapping[str, Any]:
    return {"adapter": adapter, "base": about.base.model_dump(), **about.head.facts()}


def _changed(parts: Path) -> DataError:
    return DataError(
        "data.changed",
        "the data changed while they were scored.",
        f"Delete {parts} and predict again, from a copy that nobody writes to.",
    )
