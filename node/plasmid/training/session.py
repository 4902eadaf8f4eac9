"""The gateway's side of one run's worker: start, open, compute, stop. Imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import SiteFailed, from_dict
from plasmid.data.table import Table
from plasmid.models.store import BaseModel
from plasmid.protocol.body import Body, pack, unpack
from plasmid.training.channel import Channel, ChannelClosed
from plasmid.training.launcher import Launcher

Progress = Callable[[int, int], None]


class WorkerSession:
    """A warm worker for one run."""

    def __init__(self, launcher: Launcher, log: Path) -> None:
        self._worker = launcher.launch(log)
        self._opened = False
        self._ending = threading.Lock()

    def open(self, document: dict[str, Any], base: BaseModel | None, table: Table | None) -> None:
        """Send what the run needs; the worker warms up while the caller goes on."""
        named = None if base is None else {"id": base.id, "revision": base.revision, "digest": base.digest}
        self._send({"type": "open", "document": document, "base": named}, table.to_bytes() if table else b"")

    def compute(
        self,
        state: NDArray[Any],
        *,
        order: Mapping[str, Any],
        length: int,
        dtype: np.dtype[Any],
        progress: Progress,
    ) -> NDArray[Any]:
        """Return the worker's vector, *dtype* [length].

        Parameters
        ----------
        order
            ``phase``, ``seed`` and ``sampling`` of the compute frame; see :mod:`plasmid.training.worker`.

        Raises
        ------
        SiteFailed
            ``site.worker_died``.
        PlasmidError
            What the worker itself reported.
        """
        while not self._opened:
            self._opened = self._receive(progress)[0]["type"] == "opened"
        self._send({"type": "compute", **order}, pack("state", state))
        while True:
            header, body = self._receive(progress)
            if header["type"] == "result":
                return unpack(body, "vector", length=length, dtype=dtype)

    def stop(self) -> None:
        """Ask the worker to stop at its next step."""
        self._send({"type": "stop"})

    def end(self) -> None:
        """End the worker, now. Calling it again does nothing."""
        with self._ending:
            self._worker.end()

    @property
    def channel(self) -> Channel:
        """The channel to the worker."""
        return self._worker.channel

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        try:
            self.channel.send(header, body)
        except ChannelClosed as error:
            raise _died() from error

    def _receive(self, progress: Progress) -> tuple[dict[str, Any], Body]:
        while True:
            try:
                header, body = self.channel.receive()
            except ChannelClosed as error:
                raise _died() from error
            if header["type"] == "error":
                raise from_dict(header)
            if header["type"] != "progress":
                return header, body
            progress(int(header["step"]), int(header["steps"]))


def _died() -> SiteFailed:
    return SiteFailed(
        "site.worker_died", "The worker ended unexpectedly.", "See worker.log in the site's folder."
    )
