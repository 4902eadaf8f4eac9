"""A flwr ``Grid`` whose only node is the secure sum.

A strategy sees one node, sends it the state and gets one reply: the parameters that follow from the
securely aggregated mean, with ``num-examples`` 1, since every site has the same weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from plasmid.core.errors import RunFailed
from plasmid.worker.flower import assume_identity

SUM_NODE = 2
"""The one node that a strategy sees: the secure sum of all sites."""
Arrays = dict[str, NDArray[np.floating[Any]]]
SecureRound = Callable[[Arrays], Arrays]
"""Runs one round over the sites from the given parameters and returns the mean of theirs."""


class LinkGrid(Grid):
    """See the module's docstring."""

    def __init__(self, secure_round: SecureRound) -> None:
        assume_identity()
        self._secure_round = secure_round
        self._run: Any = None

    def set_run(self, run: Any) -> None:
        """Take flwr's description of its run, which is not used here."""
        self._run = run

    @property
    def run(self) -> Any:
        """What :meth:`set_run` was given, or None."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to the one node."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the one node."""
        return [SUM_NODE]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: ARG002 - flwr's signature
        """Refuse: single messages to single sites do not exist here."""
        raise RunFailed(
            "run.strategy", "this strategy sends messages of its own; only the secure sum is here."
        )

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: ARG002 - flwr's signature
        """Refuse, as :meth:`push_messages`."""
        raise RunFailed("run.strategy", "this strategy reads single replies; only the secure sum is here.")

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - the round has its own deadline
    ) -> Iterable[Message]:
        """Run one secure round for the one message and return the one synthetic reply."""
        (message,) = messages
        (arrays,) = message.content.array_records.values()
        mean = self._secure_round({name: array.numpy() for name, array in arrays.items()})
        record = ArrayRecord({name: Array(values) for name, values in mean.items()})
        content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})})
        return [Message(content, reply_to=message)]
