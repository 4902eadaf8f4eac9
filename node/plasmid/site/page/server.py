"""The page's process: a socket on loopback, a link for the owner, and an end.

Rules
-----
1. It listens on 127.0.0.1 and nowhere else, in a process of its own: the gateway imports no web server.
2. Connections, header bytes and idle time are bounded. No access log is kept: an address holds a secret.
"""

from __future__ import annotations

import secrets
import socket
import threading

import uvicorn

from plasmid.core.errors import UsageError
from plasmid.gateway.home import SiteHome
from plasmid.site.page.app import make_app
from plasmid.site.page.sessions import Sessions

LOOPBACK = "127.0.0.1"
_CONNECTIONS = 32
_HEADER_BYTES = 16 * 1024


class PageServer:
    """The page of the site in *home*; :meth:`start` makes it listen, in a thread.

    Parameters
    ----------
    port
        0 for any that is free.

    Raises
    ------
    UsageError
        ``usage.port``: the port is taken. ``usage.no_site``: there is no site.
    """

    def __init__(self, home: SiteHome, *, port: int = 0, sessions: Sessions | None = None) -> None:
        name = home.config().name
        self.sessions = sessions or Sessions()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((LOOPBACK, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(
                "usage.port",
                f"the page cannot listen on port {port}: {error.strerror}.",
                "Choose another with --port, or leave it out.",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        beginning = secrets.token_urlsafe(16)
        self.base = f"http://{LOOPBACK}:{self.port}/{beginning}"
        self.app = make_app(
            home,
            self.sessions,
            beginning=beginning,
            hosts={f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"},
            site=name,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=_HEADER_BYTES,
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def start(self) -> None:
        """Listen, until :meth:`close`. Whoever connects from now on is answered, or waits for the thread."""
        self._socket.listen(_CONNECTIONS)
        self._thread.start()

    def link(self) -> str:
        """Return a new login link; it opens the page once, within some minutes."""
        return f"{self.base}/login?secret={self.sessions.issue()}"

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()
