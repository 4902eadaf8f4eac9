"""The page's process: a link for the owner, on loopback, and an end.

Rules
-----
1. It is a process of its own: the gateway imports no web server.
2. No access log is kept: an address holds a secret.
"""

from __future__ import annotations

import secrets

from plasmid.gateway.home import SiteHome
from plasmid.owner.page.app import make_app
from plasmid.owner.page.sessions import Sessions
from plasmid.web.loopback import LOOPBACK, LoopbackServer


class PageServer(LoopbackServer):
    """The page of the site in *home*.

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
        super().__init__(port=port, connections=32, header_bytes=16 * 1024, idle_s=5)
        self.sessions = sessions or Sessions()
        beginning = secrets.token_urlsafe(16)
        self.base = f"http://{LOOPBACK}:{self.port}/{beginning}"
        self.app = make_app(
            home,
            self.sessions,
            beginning=beginning,
            hosts={f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"},
            site=name,
        )

    def link(self) -> str:
        """Return a new login link; it opens the page once, within some minutes."""
        return f"{self.base}/login?secret={self.sessions.issue()}"
