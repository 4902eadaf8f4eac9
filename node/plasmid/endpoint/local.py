"""The endpoint for this machine alone, from the base install: who can reach loopback may use it."""

from __future__ import annotations

from plasmid.endpoint.access import Access
from plasmid.endpoint.app import AnyService, make_app
from plasmid.web.loopback import LOOPBACK, LoopbackServer


class LocalServer(LoopbackServer):
    """Serves *service* under :attr:`url`. Raises UsageError: see :class:`LoopbackServer`."""

    def __init__(self, service: AnyService, access: Access, *, port: int = 0) -> None:
        super().__init__(port=port, connections=256, header_bytes=32 * 1024, idle_s=30)
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.app = make_app(service, access, local=True)
