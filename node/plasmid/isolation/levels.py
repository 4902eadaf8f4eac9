"""The levels of isolation, strongest first, and what one worker may use."""

from __future__ import annotations

import os
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from plasmid.secagg.statements import IsolationLevel

LEVELS: tuple[IsolationLevel, ...] = get_args(IsolationLevel)
"""``bubblewrap``, ``landlock``, ``none``: strongest first."""

Device = Literal["nvidia"]


def at_least(level: IsolationLevel, wanted: IsolationLevel) -> bool:
    """Return whether *level* is *wanted* or stronger."""
    return LEVELS.index(level) <= LEVELS.index(wanted)


class Limits(BaseModel):
    """What one worker may use, its children included.

    Attributes
    ----------
    memory_mib
        Memory of all its processes together; None is three quarters of the host's.
    cpu_s
        CPU seconds of all its processes together, over the whole run.
    processes
        Running at one time.
    scratch_mib
        The private folder, and the largest file in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    memory_mib: Annotated[int, Field(ge=64, le=2**24)] | None = None
    cpu_s: Annotated[int, Field(ge=1, le=10**9)] = 7 * 24 * 3600
    processes: Annotated[int, Field(ge=1, le=1024)] = 16
    scratch_mib: Annotated[int, Field(ge=1, le=2**20)] = 1024

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory."""
        if self.memory_mib is not None:
            return self.memory_mib * 2**20
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the private folder."""
        return self.scratch_mib * 2**20
