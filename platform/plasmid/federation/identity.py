"""The one private import of flwr: ``Message`` needs a task identity in the process that makes it.

flwr sets it when its own runtime starts a ServerApp; here there is no such runtime.
"""

from __future__ import annotations

from flwr.supercore.task_identity import TaskIdentity

COORDINATOR_NODE = 1
SUM_NODE = 2
"""The one node that a strategy sees: the secure sum of all sites."""


def assume_identity() -> None:
    """Make this process able to build messages; one that flwr's own runtime has started is so already."""
    try:
        TaskIdentity.run_id  # noqa: B018 - it raises while it is not set
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = 1
        TaskIdentity.node_id = COORDINATOR_NODE
