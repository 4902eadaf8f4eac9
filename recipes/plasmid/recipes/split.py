"""Sites out of one table: hold out a test, deal the rest with skewed labels.

Rules
-----
1. Rows are dealt label by label; where labels are no classes, by what the task makes of them (of numbers,
   the tenth that each is in). First ``test_share`` of each is held out; then the remaining rows of each are
   dealt to the sites in shares drawn from a symmetric Dirichlet(alpha) (Hsu et al. 2019, arXiv:1909.06335).
2. A draw that leaves a site with fewer than ``min_rows`` rows is drawn anew.
3. The same seed gives the same split on every machine and under every NumPy release: the generator is
   ``RandomState``, whose streams NumPy has frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plasmid.core.errors import DataError

Rows = npt.NDArray[np.int64]
_DRAWS = 1000


@dataclass(frozen=True)
class SiteRows:
    """Row numbers, int64 and ascending: those of the test, and those of each site."""

    test: Rows
    sites: tuple[Rows, ...]


def dirichlet_split(
    labels: Sequence[str], *, sites: int, alpha: float, test_share: float, min_rows: int, seed: int
) -> SiteRows:
    """Return which of the rows with *labels* are test and which go to each of *sites* sites.

    Raises
    ------
    DataError
        ``data.too_few_rows``: no draw gave every site *min_rows* rows.
    """
    random = np.random.RandomState(seed)
    names = np.asarray(labels, dtype=object)
    test: list[Rows] = []
    pools: list[Rows] = []
    for label in sorted(set(labels)):
        rows = random.permutation(np.flatnonzero(names == label)).astype(np.int64)
        held_out = round(test_share * len(rows))
        test.append(rows[:held_out])
        pools.append(rows[held_out:])
    for _ in range(_DRAWS):
        dealt = _deal(random, pools, sites, alpha)
        if min(map(len, dealt)) >= min_rows:
            return SiteRows(np.sort(np.concatenate(test)), dealt)
    raise DataError(
        "data.too_few_rows",
        f"{len(labels)} rows cannot be dealt to {sites} sites of at least {min_rows}, with alpha {alpha}.",
        "Lower data.split.sites or data.split.min_rows, or raise data.split.alpha.",
    )


def _deal(random: np.random.RandomState, pools: Sequence[Rows], sites: int, alpha: float) -> tuple[Rows, ...]:
    parts: list[list[Rows]] = [[] for _ in range(sites)]
    for rows in pools:
        ends = np.floor(np.cumsum(random.dirichlet([alpha] * sites))[:-1] * len(rows)).astype(np.int64)
        for part, piece in zip(parts, np.split(rows, ends), strict=True):
            part.append(piece)
    return tuple(np.sort(np.concatenate(part)) for part in parts)
