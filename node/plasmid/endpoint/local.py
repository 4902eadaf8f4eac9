"""The application on plain uvicorn, in this process: loopback only, from the base install.

Rules
-----
1. It listens on 127.0.0.1 and nowhere else; who can reach that may use it.
2. No access log, no server header; connections and header bytes are bounded.
"""

from __future__ import annotations

import socket
import threading

import uvicorn

from plasmid.core.errors import UsageError
from plasmid.endpoint.access import Access
from plasmid.endpoint.app import make_app
from plasmid.endpoint.service import Service

LOOPBACK = "127.0.0.1"
_CONNECTIONS = 256
_HEADER_BYTES = 32 * 1024


class LocalServer:
    """Serves *service* on 127.0.0.1; :meth:`start` makes it listen, in a thread.

    Parameters
    ----------
    port
        0 for any that is free.

    Raises
    ------
    UsageError
        ``usage.port``: the port is taken.
    """

    def __init__(self, service: Service, access: Access, *, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((LOOPBACK, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(
                "usage.port",
                f"the server cannot listen on port {port}: {error.strerror}.",
                "Choose another with --port, or leave it out.",
            ) from error
        self.url = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(service, access, local=True),
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=_HEADER_BYTES,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def start(self) -> None:
        """Listen, until :meth:`close`. Whoever connects from now on is answered, or waits for the thread."""
        self._socket.listen(_CONNECTIONS)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
