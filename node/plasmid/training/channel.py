"""The one channel between a gateway and its worker: a socket pair, made before the worker exists.

Rules
-----
1. The channel is authenticated by possession: the kernel gives its two ends to the two processes and
   to nobody else; it has no name, port or path, and cannot be opened through ``/proc``.
2. A frame is ``header length (4 bytes) | body length (8 bytes) | JSON header | body``, both capped
   before they are read.
3. When one end goes, the other reads end-of-file: neither process outlives the other.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

from plasmid.core.bounds import check_json
from plasmid.core.errors import ProtocolError
from plasmid.protocol.body import MAX_BODY_BYTES, Body

MAX_HEADER_BYTES = 4 * 1024 * 1024
_LENGTHS = struct.Struct(">IQ")


def parse_header(text: bytes) -> dict[str, Any]:
    """Return a frame's header. Raises ProtocolError (``protocol.frame``): it is no JSON object."""
    try:
        check_json(text)
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise ProtocolError("protocol.frame", "a frame's header is not a JSON object.") from error
    return header


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()

    def send(self, header: dict[str, Any], body: Body = b"") -> None:
        """Send one frame. Raises ChannelClosed."""
        text = json.dumps(header, allow_nan=False).encode()
        try:
            with self._sending:
                self._end.sendall(_LENGTHS.pack(len(text), len(body)) + text)
                self._end.sendall(body)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, *, most_bytes: int = MAX_BODY_BYTES) -> tuple[dict[str, Any], Body]:
        """Return the next frame.

        Raises
        ------
        ChannelClosed
        ProtocolError
            ``protocol.frame``: a body over *most_bytes*, or as :func:`parse_header`.
        """
        header_bytes, body_bytes = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        if header_bytes > MAX_HEADER_BYTES or body_bytes > most_bytes:
            raise ProtocolError(
                "protocol.frame", f"a frame of {header_bytes} + {body_bytes} bytes is too large."
            )
        return parse_header(bytes(self._exactly(header_bytes))), self._exactly(body_bytes)

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
