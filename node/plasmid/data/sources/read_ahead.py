"""Work on the pieces of a file by threads, a few pieces ahead of who takes the results.

Rules
-----
1. Results come in the order of the pieces; so do errors, whether of finding a piece or of the work on it.
2. No more than ``threads + 1`` pieces, or results, exist at a time.
3. Whoever stops early, or meets an error, has no thread left behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_order(pieces: Iterator[Piece], work: Callable[[Piece], Result], *, threads: int) -> Iterator[Result]:
    """Yield what *work* makes of each of *pieces*, which are found by the calling thread.

    With 0 *threads* it does the work, too: of one small piece, a thread costs more than it saves.

    Raises
    ------
    Exception
        What *work* or *pieces* raise, once all that was before it is yielded.
    """
    if not threads:
        yield from map(work, pieces)
        return
    waiting: deque[Future[Result]] = deque()
    problem: Exception | None = None
    with ThreadPoolExecutor(threads) as pool:
        while problem is None:
            try:
                piece = next(pieces)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - raised below, after the pieces before it
                problem = error
            else:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    if problem is not None:
        raise problem
