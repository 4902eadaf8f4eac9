"""No garbage collection while what stays is made.

The import of a model's library makes half a million objects that stay, and Python looks at all that it has
whenever there are a few more: a quarter of the time that a worker takes to be ready.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Have no garbage collected meanwhile, by any thread; afterwards it is as before."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
