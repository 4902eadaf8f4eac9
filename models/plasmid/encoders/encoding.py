"""From the columns of a table to encoded rows: tokens, covariates, targets.

Rules
-----
1. Rows are tokenized a part at a time: a tokenizer's own answer takes a hundred times the memory of tokens.
2. What is to be learned is the head's to say (:mod:`plasmid.tasks`); where that is per token, special
   tokens have no target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from plasmid.bases.specs import Cell
from plasmid.bases.tokenizing import Tokenizer
from plasmid.encoders.batches import Rows
from plasmid.encoders.slots import encode_covariates
from plasmid.tasks import IGNORED, Head

ENCODE_ROWS = 1024
"""Rows that are tokenized at a time."""


def encode_rows(
    tokenizer: Tokenizer,
    head: Head,
    columns: Mapping[str, Sequence[Cell]],
    *,
    input_column: str,
    max_length: int,
    label_column: str | None,
) -> Rows:
    """Return *columns* as rows for *head*.

    Parameters
    ----------
    max_length
        In tokens, special ones included; longer inputs are cut.
    label_column
        None leaves the labels out.

    Raises
    ------
    ModelError
        ``model.tokenizer_unknown``.
    DataError
        As :func:`plasmid.tasks.covariates.encode_covariates` and :meth:`plasmid.tasks.Head.targets`.
    """
    ids, special, lengths = _tokens(tokenizer, [str(cell) for cell in columns[input_column]], max_length)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    covariates = encode_covariates(head.covariates, columns, len(lengths))
    labels = None
    if label_column is not None:
        labels = torch.from_numpy(_targets(head, columns[label_column], special, starts))
    return Rows(
        torch.from_numpy(ids),
        torch.from_numpy(special),
        starts,
        torch.from_numpy(covariates),
        labels,
        tokenizer.pad_id,
        by_token=head.per_token,
    )


def own_starts(special: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where the own tokens of each row begin among all own ones, int64 [rows + 1].

    Parameters
    ----------
    special, starts
        Of :class:`plasmid.encoders.batches.Rows`.
    """
    before = np.concatenate([[0], np.cumsum(~special)]).astype(np.int64)
    found: npt.NDArray[np.int64] = before[starts]
    return found


def _tokens(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], list[int]]:
    """Return the tokens of all texts back to back, which of them are special, and their number by text."""
    ids, special, lengths = [np.empty(0, np.int64)], [np.empty(0, bool)], list[int]()
    for start in range(0, len(texts), ENCODE_ROWS):
        encoded = tokenizer.encode(texts[start : start + ENCODE_ROWS], max_length, first=start)
        lengths += [len(row.ids) for row in encoded]
        ids.append(np.array([token for row in encoded for token in row.ids], np.int64))
        special.append(np.array([mark for row in encoded for mark in row.special], bool))
    return np.concatenate(ids), np.concatenate(special), lengths


def _targets(
    head: Head, cells: Sequence[Cell], special: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    found = head.targets(cells, np.diff(own_starts(special, starts)))
    if not head.per_token:
        return found
    every = np.full(len(special), IGNORED, np.int64)
    every[~special] = found
    return every
