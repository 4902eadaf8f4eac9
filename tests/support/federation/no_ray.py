"""A simulation's actors in this process, one after the other: what a ``Cluster`` asks of Ray, and no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from plasmid.simulation.cluster import Cluster


class NoRay:
    """Calls at once; a reference is its value."""

    def remote(self, kind: type[Any]) -> Any:
        def start(_threads: int) -> Any:
            actor = kind(1)  # the threads of this process are the tests'
            return SimpleNamespace(
                **{
                    name: SimpleNamespace(remote=getattr(actor, name))
                    for name in ("open", "contribute", "read", "score", "judge", "peak_bytes")
                }
            )

        made: Any = SimpleNamespace(remote=start)
        made.options = lambda **_: made
        return made

    def get(self, references: list[Any]) -> list[Any]:
        return references


def cluster(workers: int = 2) -> Cluster:
    """Return a cluster of so many actors in this process."""
    return Cluster(NoRay(), workers)


def here(opened: list[int | None]) -> Callable[..., Any]:
    """Return what stands for ``local_cluster``; how often it was opened is noted in *opened*."""

    @contextmanager
    def local(workers: int | None = None) -> Iterator[Cluster]:
        opened.append(workers)
        yield cluster(workers or 1)

    return local
