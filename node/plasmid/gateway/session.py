"""The gateway's side of one run's worker: start, open, compute, stop. Imports no torch.

A worker that runs a document's own Python may say anything. Of what it says, only the vector goes on as it
is, to be bounded and noised: steps, which others would see, are not passed on, and an error is one of a few
codes with a constant sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.bases.store import BaseModel
from plasmid.computations.api import Layout
from plasmid.core.errors import PlasmidError, from_dict
from plasmid.isolation.launcher import Launcher, Notice
from plasmid.protocol.body import Body, body_bytes, pack, unpack
from plasmid.protocol.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from plasmid.disclosure.contributors import Evidence

Progress = Callable[[int, int], None]
_PERSONAL = np.dtype("<f4")
_FOREIGN_CODES = ("run.stopped", "run.not_finite", "run.dead_tensor", "site.sandbox")


class WorkerSession:
    """A warm worker for one run; see :class:`plasmid.isolation.launcher.Launcher` for what it is given."""

    def __init__(self, launcher: Launcher, log: Path, *, read: Sequence[Path] = (), notice: Notice) -> None:
        self._worker = launcher.launch(log, read=read, notice=notice)
        self._opened = self._foreign = False
        self.evidence: Evidence | None = None
        self.personal: NDArray[np.float32] | None = None
        self.figures: dict[str, Any] | None = None
        self._ending = threading.Lock()

    def open(
        self,
        document: dict[str, Any],
        base: BaseModel | None,
        rows: int | None,
        *,
        site: str = "",
    ) -> None:
        """Send what the run needs; the worker warms up while the caller goes on.

        Parameters
        ----------
        rows
            Descriptor of the view's snapshot, which stays the caller's; None where no row is read.
        site
            This site's name: a document may say what rank it trains, and how much it counts.
        """
        self._foreign = document.get("bundle") is not None
        named = None if base is None else {"id": base.id, "revision": base.revision, "digest": base.digest}
        opening = {"type": "open", "document": document, "base": named, "site": site}
        self._send(opening, descriptor=rows)

    def wait_open(self, progress: Progress) -> None:
        """Return when the worker has opened what it was sent; :meth:`compute` waits for that, too.

        Raises
        ------
        SiteFailed, PlasmidError
            As :meth:`compute`.
        """
        while not self._opened:
            self._opened = self._receive(progress, 0)[0]["type"] == "opened"

    def compute(
        self,
        state: NDArray[Any],
        *,
        order: Mapping[str, Any],
        length: int,
        dtype: np.dtype[Any],
        progress: Progress,
        cells: tuple[Layout, int] | None = None,
        own: NDArray[np.float32] | None = None,
        keeps: int = 0,
    ) -> NDArray[Any]:
        """Return the worker's vector, *dtype* [length]; :attr:`evidence` is what it says about its cells.

        :attr:`personal` is what the site is to keep for itself, float32 [keeps], or None; :attr:`figures`
        what the worker has found out for its owner, or None.

        Parameters
        ----------
        order
            ``phase``, ``round``, ``seed`` and ``sampling`` of the compute frame; see
            :mod:`plasmid.worker.worker`.
        cells
            The layout of a sum in cells, and the most records; None where no evidence is asked for.
        own
            What the site keeps for itself so far; None is nothing yet.
        keeps
            How many numbers it keeps.

        Raises
        ------
        SiteFailed
            ``site.worker_died``; ``site.sandbox``: its sandbox ended it.
        PlasmidError
            What the worker itself reported.
        """
        most = body_bytes("vector", length, dtype)
        if cells is not None:
            most = max(most, evidence_bytes(*cells))
        most = max(most, body_bytes("personal", keeps, _PERSONAL))
        self.evidence = self.personal = self.figures = None
        self.wait_open(progress)
        if own is not None:
            self._send({"type": "personal"}, pack("personal", own))
        self._send({"type": "compute", **order}, pack("state", state))
        while True:
            header, body = self._receive(progress, most)
            if header["type"] == "cells" and cells is not None:
                self.evidence = _evidence(header, body, cells[0])
            if header["type"] == "figures" and not self._foreign:
                self.figures = header["figures"]
            if header["type"] == "personal" and keeps:
                self.personal = unpack(body, "personal", length=keeps, dtype=_PERSONAL)
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

    def _send(self, header: dict[str, Any], body: bytes = b"", *, descriptor: int | None = None) -> None:
        try:
            self.channel.send(header, body, descriptor=descriptor)
        except ChannelClosed as error:
            raise self._worker.why() from error

    def _receive(self, progress: Progress, most_bytes: int) -> tuple[dict[str, Any], Body]:
        while True:
            try:
                header, body = self.channel.receive(most_bytes=most_bytes)
            except ChannelClosed as error:
                raise self._worker.why() from error
            if header["type"] == "error":
                raise _constant(header) if self._foreign else from_dict(header)
            if header["type"] != "progress":
                return header, body
            if not self._foreign:
                progress(int(header["step"]), int(header["steps"]))


def evidence_bytes(layout: Layout, records: int) -> int:
    """Return the size of the evidence of so many records."""
    return 16 * records + 8 * layout.cells * (1 + 3 * layout.numbers)


def _evidence(header: Mapping[str, Any], body: Body, layout: Layout) -> Evidence | None:
    """Return the evidence of a frame, None if it is none: without it nothing in cells leaves."""
    try:
        from plasmid.disclosure.contributors import Evidence  # which runs without cells do not need

        return Evidence.from_bytes(
            bytes(body), records=int(header["records"]), cells=layout.cells, numbers=layout.numbers
        )
    except (ValueError, KeyError, TypeError):
        return None


def _constant(header: Mapping[str, Any]) -> PlasmidError:
    """Return the error of a worker whose own words are not to be trusted."""
    code = header.get("code") if header.get("code") in _FOREIGN_CODES else "run.bundle"
    what = "The worker ended the computation of a recipe's own Python."
    return from_dict(
        {"code": str(code), "message": what, "hint": "worker.log in the site's folder says where."}
    )
