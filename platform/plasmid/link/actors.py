"""How the coordinator's classes become Ray actors, and where these log.

The classes themselves know nothing of Ray's decorators, so that tests use them directly.
"""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import ray

MAX_CONCURRENCY = 1000
"""Of coroutines in one actor; each site's long poll is one."""


def start_actor(kind: type[Any], name: str, *arguments: Any) -> Any:
    """Return the handle of a detached actor of *kind*; it outlives the caller, not the coordinator."""
    remote: Any = ray.remote(kind)
    is_async = any(inspect.iscoroutinefunction(method) for method in vars(kind).values())
    options: dict[str, Any] = {"max_concurrency": MAX_CONCURRENCY} if is_async else {}
    return remote.options(name=name, lifetime="detached", num_cpus=0, **options).remote(*arguments)


def log_to(folder: Path) -> None:
    """Send this process's log to ``coordinator.log`` in *folder*, not to Ray's session folder."""
    logging.basicConfig(
        filename=folder / "coordinator.log",
        level=logging.INFO,
        format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s",
        force=True,
    )
