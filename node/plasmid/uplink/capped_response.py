"""Answers of the coordinator, read up to a cap: who may lie may also send without end.

Rules
-----
1. A body is read up to ``max_bytes`` and no further, whatever its length is said to be.
2. Compression is neither asked for nor taken: a thousandth of a body could be all that was counted.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from plasmid.core.errors import LinkError


class CappedTransport(httpx.BaseTransport):
    """A transport that ends an answer of more than *max_bytes* with LinkError (``link.refused``)."""

    def __init__(self, inner: httpx.BaseTransport, max_bytes: int) -> None:
        self._inner, self._max_bytes = inner, max_bytes

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*; see the module's rules."""
        request.headers["Accept-Encoding"] = "identity"
        response = self._inner.handle_request(request)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise LinkError("link.refused", "an answer is compressed, which was not asked for.")
        stream = response.stream
        assert isinstance(stream, httpx.SyncByteStream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Capped(stream, self._max_bytes),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close all connections."""
        self._inner.close()


class _Capped(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, max_bytes: int) -> None:
        self._inner, self._left = inner, max_bytes
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        for part in self._inner:
            self._left -= len(part)
            if self._left < 0:
                raise LinkError("link.refused", f"an answer is longer than {self._max_bytes} bytes.")
            yield part

    def close(self) -> None:
        self._inner.close()
