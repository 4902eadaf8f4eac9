"""The link server: a Ray actor that serves HTTPS and hands messages to the run actors.

Rules
-----
1. One event loop serves the requests and the actor's methods, so the switchboard needs no locks.
2. Bodies stay on disk, content-addressed; only digests and messages cross Ray.
3. :func:`free_port` tries the port before Ray starts, so that a taken one is known at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import uvicorn

from plasmid.core.errors import LinkError, PlasmidError
from plasmid.link.actors import log_to
from plasmid.link.authority import Authority
from plasmid.link.bodies import Bodies
from plasmid.link.connection_limits import GuardedServer, Limits, guarded
from plasmid.link.engine import open_engine
from plasmid.link.membership import Membership
from plasmid.link.projects import ProjectRegistry
from plasmid.link.registry import Registry
from plasmid.link.routes import build_app
from plasmid.link.switchboard import Collected, Switchboard
from plasmid.protocol.enrolment import signed_card
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Signed

CONTROLLER = "controller"


def free_port(host: str, port: int) -> int:
    """Return *port*, or a free one for 0. Raises LinkError (``link.port_taken``)."""
    with contextlib.closing(_bind(host, port)) as bound:
        return int(bound.getsockname()[1])


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise LinkError(
            "link.port_taken",
            f"cannot listen on {host}:{port}: {error.strerror}.",
            "Choose another --port, or leave it out to let the system choose.",
        ) from error
    return bound


class LinkServer:
    """See the module's rules. Methods are called by the controller and by run actors."""

    def __init__(self, home: str, database_url: str, limits: Limits | None = None) -> None:
        folder = Path(home)
        log_to(folder)
        self._folder = folder
        engine = open_engine(database_url)
        self._registry = Registry(engine)
        self._projects = ProjectRegistry(engine)
        self._bodies = Bodies(folder / "bodies")
        self._switchboard = Switchboard()
        self._limits = limits or Limits()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Serve on *host*:*port* and return the port."""
        identity = Identity.from_pem("coordinator", (self._folder / "identity.key").read_bytes())
        authority = Authority(self._folder)
        membership = Membership(
            self._registry, authority, self._switchboard, identity, lambda *call: _ask_controller(*call)
        )
        await membership.catch_up()
        self._watching = asyncio.create_task(membership.watch())
        app = build_app(
            identity=identity,
            membership=membership,
            card=signed_card(identity, authority.pem),
            registry=self._registry,
            projects=self._projects,
            authority=authority,
            switchboard=self._switchboard,
            bodies=self._bodies,
            ask=_ask_controller,
        )
        config = uvicorn.Config(
            app,
            http=guarded(self._limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ssl_keyfile=str(self._folder / "server.key"),
            ssl_certfile=str(self._folder / "server.pem"),
            ssl_ca_certs=str(self._folder / "ca.pem"),
            ssl_cert_reqs=ssl.CERT_OPTIONAL,
        )
        config.load()
        assert config.ssl is not None
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        bound = _bind(host, port)
        self._server = GuardedServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        return int(bound.getsockname()[1])

    async def close(self) -> None:
        """Stop serving."""
        if self._watching is not None:
            self._watching.cancel()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def open_run(self, run: str, sites: Sequence[str]) -> None:
        """See :class:`Switchboard`."""
        self._switchboard.open_run(run, sites)

    async def move_on(self, run: str, epoch: int, slot: int) -> None:
        """See :class:`Switchboard`."""
        self._switchboard.move_on(run, epoch, slot)

    async def readmit(self, run: str, sites: Sequence[str]) -> list[str]:
        """See :class:`Switchboard`."""
        return self._switchboard.readmit(run, sites)

    async def hear_again(self, run: str, kind: str, sites: Sequence[str]) -> list[str]:
        """See :class:`Switchboard`."""
        return self._switchboard.hear_again(run, kind, sites)

    async def expelled(self, sites: Sequence[str]) -> list[str]:
        """See :class:`Switchboard`."""
        return self._switchboard.expelled(sites)

    async def close_run(self, run: str) -> None:
        """Forget *run* and delete what was received for it."""
        self._switchboard.close_run(run)
        self._bodies.drop_run(run)

    async def stop_run(self, run: str) -> None:
        """See :class:`Switchboard`."""
        self._switchboard.stop_run(run)

    async def expect(self, run: str, size: int) -> None:
        """See :class:`Bodies`."""
        self._bodies.expect(run, size)

    async def send(self, messages: Sequence[tuple[str, Signed]]) -> None:
        """Put messages into sites' mailboxes."""
        for site, signed in messages:
            self._switchboard.send(site, signed)

    async def collect(
        self, run: str, kind: str, sites: Sequence[str], timeout_s: float, enough: int | None
    ) -> Collected | PlasmidError:
        """See :class:`Switchboard`; a known error is returned, so that it crosses Ray as itself."""
        try:
            return await self._switchboard.collect(run, kind, sites, timeout_s=timeout_s, enough=enough)
        except PlasmidError as error:
            return error

    async def pulses(self, run: str) -> dict[str, tuple[int, int, int]]:
        """See :class:`Switchboard`."""
        return self._switchboard.pulses(run)

    async def online(self) -> list[str]:
        """See :class:`Switchboard`."""
        return self._switchboard.online()


async def _ask_controller(method: str, *arguments: Any) -> Any:
    controller = ray.get_actor(CONTROLLER)
    answer = await getattr(controller, method).remote(*arguments)
    if isinstance(answer, PlasmidError):
        raise answer
    return answer
