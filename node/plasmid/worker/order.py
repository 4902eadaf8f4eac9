"""Which rows are in which batch, where no privacy unit draws them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def order(rows: int, batch: int, steps: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the row numbers of each of *steps* batches, int64 [min(batch, rows)].

    They come from permutations without replacement; what is left of a permutation that doesn't fill a
    batch is dropped, a table smaller than a batch is one batch.
    """
    source = np.random.Generator(np.random.Philox(seed))
    size = min(batch, rows)
    done = 0
    while done < steps:
        permutation = source.permutation(rows)
        for start in range(0, rows - size + 1, size)[: steps - done]:
            yield permutation[start : start + size]
            done += 1
