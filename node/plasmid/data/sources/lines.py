"""The lines of a block, and pieces of its bytes as Arrow arrays: no object for each of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from plasmid.data.sources.blocks import Block, Bytes, Places


class Lines:
    """The lines of a block: line i is ``letters[starts[i]:ends[i]]``, its line break left out."""

    def __init__(self, block: Block) -> None:
        self.letters: Bytes = block.letters
        self.low, self.ranks, self.breaks = block.low, block.ranks, block.breaks
        self.starts: Places = np.concatenate(([0], block.breaks[:-1] + 1))
        self.ends: Places = block.breaks - (self.letters[block.breaks - 1] == ord("\r"))

    def pick(self, which: npt.NDArray[np.bool_] | Places | slice) -> pa.StringArray:
        """Return those lines, copied behind one another."""
        return pick(self.letters, self.starts[which], self.ends[which])

    def first_low(self, which: Places | slice) -> Places:
        """Return where each of those lines has its first byte up to the space: its break, if no other."""
        found: Places = self.low[np.concatenate(([0], self.ranks[:-1] + 1))[which]]
        return found


def pick(data: Bytes, starts: Places, ends: Places) -> pa.StringArray:
    """Return ``data[starts[i]:ends[i]]`` for each i, in order and not overlapping, as an array of its own.

    *data* is UTF-8, which is not checked again, and is cut at ASCII characters only.
    """
    # As an array over the same bytes, the wanted values alternate with the gaps between them.
    offsets = np.empty(2 * len(starts), np.int32)
    offsets[0::2], offsets[1::2] = starts, ends
    if not offsets.size:
        return pa.array([], pa.string())
    whole = strings(data, offsets)
    return whole.take(pa.array(np.arange(0, offsets.size - 1, 2, dtype=np.int32)))


def offsets_of(array: pa.Array) -> Places:
    found = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    return found.astype(np.int64)


def data_of(array: pa.Array) -> Bytes:
    buffer = array.buffers()[2]
    if buffer is None or not len(array):
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8)[: offsets_of(array)[-1]]


def strings(data: Bytes, offsets: Places | npt.NDArray[np.int32]) -> pa.StringArray:
    """Return an array over *data*, which is not copied."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int32, copy=False)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)
