"""The one channel between a gateway and its worker: a socket pair, made before the worker exists.

Rules
-----
1. The channel is authenticated by possession: the kernel gives its two ends to the two processes and
   to nobody else; it has no name, port or path, and cannot be opened through ``/proc``.
2. A frame is ``header length (4 bytes) | body length (8 bytes) | JSON header | body``, both capped
   before they are read.
3. When one end goes, the other reads end-of-file: neither process outlives the other.
4. A frame may carry one open file: rows go from process to process without being copied, and without a name
   that a third one could open. Who expects files says so, and finds ``descriptor`` in the header, which no
   header can claim by itself; from everybody else the kernel throws them away.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

from plasmid.core.bounds import MAX_BODY_BYTES, parse_json
from plasmid.core.errors import ProtocolError

if TYPE_CHECKING:  # a reader has a channel before it may import numpy
    from plasmid.protocol.body import Body

MAX_HEADER_BYTES = 4 * 1024 * 1024
_LENGTHS = struct.Struct(">IQ")
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def parse_header(text: bytes) -> dict[str, Any]:
    """Return a frame's header. Raises ProtocolError (``protocol.frame``): it is no JSON object."""
    try:
        header = parse_json(text)
        if not isinstance(header, dict):
            raise ValueError
    except ValueError as error:
        raise ProtocolError("protocol.frame", "a frame's header is not a JSON object.") from error
    return header


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()

    def send(self, header: dict[str, Any], body: Body = b"", *, descriptor: int | None = None) -> None:
        """Send one frame, with an open file if there is one. Raises ChannelClosed."""
        text = json.dumps(header, allow_nan=False).encode()
        lengths = _LENGTHS.pack(len(text), len(body))
        try:
            with self._sending:
                if descriptor is None:
                    self._end.sendall(lengths)
                else:  # the file comes with the first byte, whatever else of the frame does
                    sent = socket.send_fds(self._end, [lengths], [descriptor])
                    self._end.sendall(lengths[sent:])
                self._end.sendall(text)
                self._end.sendall(body)
        except OSError as error:
            raise ChannelClosed from error

    def receive(
        self, *, most_bytes: int = MAX_BODY_BYTES, files: bool = False
    ) -> tuple[dict[str, Any], Body]:
        """Return the next frame; with *files*, ``descriptor`` in its header is an open file, or None.

        Raises
        ------
        ChannelClosed
        ProtocolError
            ``protocol.frame``: a body over *most_bytes*, or as :func:`parse_header`.
        """
        lengths, descriptor = self._lengths() if files else (self._exactly(_LENGTHS.size), None)
        try:
            header_bytes, body_bytes = _LENGTHS.unpack(lengths)
            if header_bytes > MAX_HEADER_BYTES or body_bytes > most_bytes:
                raise ProtocolError(
                    "protocol.frame", f"a frame of {header_bytes} + {body_bytes} bytes is too large."
                )
            header = parse_header(bytes(self._exactly(header_bytes)))
            body = self._exactly(body_bytes)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        return ({**header, "descriptor": descriptor} if files else header), body

    def _lengths(self) -> tuple[Body, int | None]:
        try:
            start, descriptors, _, _ = socket.recv_fds(self._end, _LENGTHS.size, 1, _CLOSED_ON_EXEC)
        except OSError as error:
            raise ChannelClosed from error
        if not start:
            raise ChannelClosed
        found = descriptors[0] if descriptors else None
        try:
            if found is not None:
                os.set_inheritable(found, False)  # not every kernel knows the flag
            return start + self._exactly(_LENGTHS.size - len(start)), found
        except BaseException:
            if found is not None:
                os.close(found)
            raise

    def finish(self) -> None:
        """Send nothing more: the other end reads end-of-file, and may still send."""
        with contextlib.suppress(OSError):  # it is closed
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end, also for a thread that is blocked in it."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end was faster
            return
        finally:
            self._end.close()

    def _exactly(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            try:
                count = self._end.recv_into(view)
            except OSError as error:
                raise ChannelClosed from error
            if count == 0:
                raise ChannelClosed
            view = view[count:]
        return buffer
