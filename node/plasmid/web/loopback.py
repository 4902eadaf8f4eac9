"""An application on plain uvicorn, in this process, for this machine alone.

Rules
-----
1. It listens on 127.0.0.1 and nowhere else.
2. Connections, header bytes and idle time are bounded. No access log is kept, and no server is named.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn

from plasmid.core.errors import UsageError

LOOPBACK = "127.0.0.1"


class LoopbackServer:
    """Holds its port from the beginning, and serves :attr:`app` from :meth:`start` to :meth:`close`.

    Parameters
    ----------
    port
        0 for any that is free.
    connections, header_bytes, idle_s
        At most so many at once; of a request's head; until a silent connection is closed.

    Attributes
    ----------
    app
        The ASGI application, which a subclass makes once the port is known.

    Raises
    ------
    UsageError
        ``usage.port``: the port is taken.
    """

    app: Any

    def __init__(self, *, port: int, connections: int, header_bytes: int, idle_s: int) -> None:
        self._limits: dict[str, Any] = {
            "limit_concurrency": connections,
            "h11_max_incomplete_event_size": header_bytes,
            "timeout_keep_alive": idle_s,
        }
        self._connections = connections
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((LOOPBACK, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(
                "usage.port",
                f"nothing can listen on port {port}: {error.strerror}.",
                "Choose another with --port, or leave it out.",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, until :meth:`close`. Whoever connects from now on is answered, or waits for the thread."""
        config = uvicorn.Config(
            self.app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            **self._limits,
        )
        self._server = uvicorn.Server(config)
        self._socket.listen(self._connections)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(10)
        self._socket.close()
