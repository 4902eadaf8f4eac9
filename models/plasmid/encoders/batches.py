"""Encoded rows of a table, and the batches that are cut from them.

Rules
-----
1. Token ids and cached activations are kept without padding, back to back; a batch is padded to its
   own longest row, on the right.
2. Two masks: one over padding, for the encoder, and one over special tokens too, for the mean that is taken
   of its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plasmid.tasks import IGNORED

STEP = 8
"""Rows and tokens by which a group of rows grows."""


def _round_up(lengths: Tensor) -> Tensor:
    return (lengths + STEP - 1) // STEP * STEP


def _cut(values: Tensor, longest: int, dimensions: int) -> Tensor:
    """Return *values* without the padding behind *longest* tokens, if they have as many *dimensions*."""
    return values[:, :longest] if values.ndim == dimensions else values


@dataclass(frozen=True)
class Batch:
    """What the model takes.

    Attributes
    ----------
    input_ids, attention_mask
        int64 [n, tokens].
    own
        True for the tokens of the text itself, neither special nor padding; bool [n, tokens].
    covariates
        float32 [n, covariate width].
    labels
        What is to be learned, [n] or [n, tokens], as :meth:`plasmid.tasks.Head.losses` takes it; None
        where there is nothing.
    hidden
        Cached input of the lowest trained layer, [n, tokens, hidden]; None runs the whole encoder.
    pooled
        Cached: what the head reads of the encoder's output, float32 [n, hidden] or [n, tokens, hidden]; None
        runs the encoder.
    """

    input_ids: Tensor
    attention_mask: Tensor
    own: Tensor
    covariates: Tensor
    labels: Tensor | None = None
    hidden: Tensor | None = None
    pooled: Tensor | None = None

    def groups(self) -> tuple[Tensor, Tensor] | None:
        """Return the rows in two groups, short and long, or None where that saves too little padding.

        Of the cuts of the rows sorted by length it is the one with the fewest padded tokens. On a CPU
        that saves nearly as much time as tokens (texts: a quarter); three groups save no more. Sizes
        go in steps of :data:`STEP`, because the CPU's matrix library keeps memory for every new shape.
        """
        if len(self.input_ids) <= STEP:
            return None
        lengths, order = self.attention_mask.sum(1).sort()
        lengths = _round_up(lengths)
        short = torch.arange(STEP, len(order), STEP)
        tokens = short * lengths[short - 1] + (len(order) - short) * lengths[-1]
        if tokens.min() > 0.85 * self.input_ids.numel():
            return None
        cut = int(short[tokens.argmin()])
        return order[:cut], order[cut:]

    def part(self, rows: Tensor) -> Batch:
        """Return those *rows*, int64 [n], with less padding."""
        mask = self.attention_mask[rows]
        longest = int(_round_up(mask.sum(1).max()))
        return Batch(
            self.input_ids[rows, :longest],
            mask[:, :longest],
            self.own[rows, :longest],
            self.covariates[rows],
            None if self.labels is None else _cut(self.labels[rows], longest, 2),
            None if self.hidden is None else self.hidden[rows, :longest],
            None if self.pooled is None else _cut(self.pooled[rows], longest, 3),
        )

    def to(self, device: torch.device) -> Batch:
        """Return the batch on *device*."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.own.to(device),
            self.covariates.to(device),
            None if self.labels is None else self.labels.to(device),
            None if self.hidden is None else self.hidden.to(device),
            None if self.pooled is None else self.pooled.to(device),
        )


@dataclass(frozen=True)
class Rows:
    """A whole table, encoded.

    Attributes
    ----------
    ids
        Token ids of all rows back to back, int64 [tokens].
    special
        True for special tokens, bool [tokens].
    starts
        Row i is ``ids[starts[i]:starts[i + 1]]``; int64 [rows + 1].
    covariates
        float32 [rows, covariate width].
    labels
        What is to be learned, [rows], or [tokens] where *by_token*; None where there is nothing.
    hidden
        Cached activations in the order of *ids*, [tokens, hidden], or None.
    pooled
        Cached: what the head reads of the encoder's output, float32 [rows, hidden], or [tokens, hidden] where
        *by_token*; or None.
    by_token
        Whether the head is per token.
    """

    ids: Tensor
    special: Tensor
    starts: npt.NDArray[np.int64]
    covariates: Tensor
    labels: Tensor | None
    pad_id: int
    hidden: Tensor | None = None
    pooled: Tensor | None = None
    by_token: bool = False

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self.starts)

    def tokens(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return where in :attr:`ids` the tokens of those rows are, row by row, int64."""
        lengths = self.lengths[rows]
        firsts = np.repeat(self.starts[rows] - (lengths.cumsum() - lengths), lengths)
        return torch.from_numpy(firsts + np.arange(lengths.sum()))

    def batch(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        """Return those rows, padded to the longest of them."""
        spans = [slice(int(self.starts[row]), int(self.starts[row + 1])) for row in rows]
        ids = pad_sequence([self.ids[span] for span in spans], batch_first=True, padding_value=self.pad_id)
        special = pad_sequence([self.special[span] for span in spans], batch_first=True, padding_value=1)
        lengths = torch.from_numpy(self.lengths[np.asarray(rows)])
        chosen = torch.as_tensor(np.asarray(rows))
        return Batch(
            ids,
            (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            ~special,
            self.covariates[chosen],
            self._of(self.labels, chosen, spans, padding=IGNORED),
            None
            if self.hidden is None
            else pad_sequence([self.hidden[span] for span in spans], batch_first=True),
            self._of(self.pooled, chosen, spans, padding=0.0),
        )

    def _of(
        self, values: Tensor | None, rows: Tensor, spans: Sequence[slice], *, padding: float
    ) -> Tensor | None:
        """Return those of *values* that are the *rows*', or, by token, those in *spans*."""
        if values is None:
            return None
        if not self.by_token:
            return values[rows]
        return pad_sequence([values[span] for span in spans], batch_first=True, padding_value=padding)

    def parts(self, sizes: Sequence[int]) -> list[Rows]:
        """Return the rows in runs of *sizes* rows, one table each: the inverse of :func:`joined`."""
        found, first = [], 0
        for size in sizes:
            starts = self.starts[first : first + size + 1]
            rows, tokens = slice(first, first + size), slice(int(starts[0]), int(starts[-1]))
            told = tokens if self.by_token else rows
            found.append(
                Rows(
                    self.ids[tokens],
                    self.special[tokens],
                    starts - starts[0],
                    self.covariates[rows],
                    None if self.labels is None else self.labels[told],
                    self.pad_id,
                    None if self.hidden is None else self.hidden[tokens],
                    None if self.pooled is None else self.pooled[told],
                    self.by_token,
                )
            )
            first += size
        return found

    def by_length(self, size: int) -> list[npt.NDArray[np.int64]]:
        """Return row numbers in groups of at most *size*, rows of like length together."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start : start + size] for start in range(0, len(order), size)]

    def with_hidden(self, hidden: Tensor) -> Rows:
        """Return the same rows with cached activations."""
        return replace(self, hidden=hidden)

    def with_pooled(self, pooled: Tensor) -> Rows:
        """Return the same rows with what the head reads of the encoder's output."""
        return replace(self, pooled=pooled)


def joined(tables: Sequence[Rows]) -> Rows:
    """Return the rows of *tables*, which are of one task, behind one another, and what all have cached."""
    ends = np.cumsum([0, *(len(table.ids) for table in tables)])
    starts = [table.starts[:-1] + end for table, end in zip(tables, ends, strict=False)]

    def every(name: str) -> Tensor | None:
        values = [getattr(table, name) for table in tables]
        return None if any(value is None for value in values) else torch.cat(values)

    return replace(
        tables[0],
        ids=torch.cat([table.ids for table in tables]),
        special=torch.cat([table.special for table in tables]),
        starts=np.concatenate([*starts, ends[-1:]]),
        covariates=torch.cat([table.covariates for table in tables]),
        labels=every("labels"),
        hidden=every("hidden"),
        pooled=every("pooled"),
    )
