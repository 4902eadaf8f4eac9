"""The endpoint on Ray Serve.

Rules
-----
1. A replica is :func:`plasmid.endpoint.app.make_app` whole: Ray starts it, spreads requests over replicas
   and starts a dead one again. There is no second implementation.
2. Each replica holds the base once, and adapters of its own; it batches what it is sent.
3. A request's ``Host`` must name this server: its host, a name of its certificate, or the URL that it is said
   to be known by (:func:`known_as`).
4. Ray's own access log is off. Ray is started here, with a token, and ends here.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plasmid.cli.output import Reply
from plasmid.core.errors import LinkError
from plasmid.core.files import home
from plasmid.core.lifetime import end_event
from plasmid.endpoint.service import Settings
from plasmid.serving.ray_output import unheard
from plasmid.web.request_checks import LOOPBACK_NAMES, named

EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not listened on
MAX_ONGOING = 1024
"""Requests in one replica: its own batcher and limits decide, not Ray's."""
TLS = tuple[Path, Path]
"""Certificate chain, private key."""


def build(settings: Settings, tokens: Path | None, names: Collection[str]) -> Any:
    """Return the ASGI application of one replica, its model loaded."""
    from plasmid.endpoint.access import HubAccess, TokenFile
    from plasmid.endpoint.app import make_app
    from plasmid.endpoint.factory import open_service

    access = TokenFile(tokens) if tokens is not None else HubAccess(settings.hub or "")
    known = named(names, addresses=True)
    return make_app(open_service(settings), access, local=False, known=known)


def deployment(
    settings: Settings, tokens: Path | None, *, names: Collection[str], replicas: int, threads: int
) -> Any:
    """Return the application for ``serve.run``."""
    from ray import serve

    def builder() -> Any:
        return build(settings, tokens, names)

    gpus = 1 if settings.device.startswith("cuda") else 0
    options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus}
    ingress: Any = serve.ingress(builder)()
    made: Any = serve.deployment(
        ingress,
        name="endpoint",
        num_replicas=replicas,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options=options,
        logging_config={"enable_access_log": False, "log_level": "ERROR"},
    )
    return made.bind()


@contextmanager
def running(
    settings: Settings,
    *,
    tokens: Path | None,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: TLS | None = None,
    url: str | None = None,
    replicas: int = 1,
    threads: int = 1,
) -> Iterator[str]:
    """Serve on Ray Serve and yield the URL; on exit everything it started ends.

    Parameters
    ----------
    url
        The one that callers use; None: see :func:`address`.

    Raises
    ------
    LinkError
        ``link.port_taken``, before anything is started; ``link.replica_failed``: no replica came up.
    PlasmidError
        What :func:`build` raises, as it is told before Ray starts.
    """
    folder = home() / "serving"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    from plasmid.coordinator.coordinator import secure_ray

    secure_ray(folder)
    import ray
    from ray import serve as untyped

    from plasmid.link.server import free_port

    serve: Any = untyped
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    port = free_port(host, port)
    settings = _with_device(settings)
    ray.init(
        address="local",
        num_cpus=replicas * threads + 1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        namespace="plasmid-serving",
        logging_level=logging.ERROR,
    )
    try:
        options: dict[str, Any] = {"host": host, "port": port}
        if tls is not None:
            options |= {"ssl_certfile": str(tls[0]), "ssl_keyfile": str(tls[1])}
        quiet = {"enable_access_log": False, "log_level": "ERROR"}
        serve.start(http_options=options, logging_config=quiet)
        names = known_as(host, tls, url)
        made = deployment(settings, tokens, names=names, replicas=replicas, threads=threads)
        failed = False
        try:
            serve.run(made, name="plasmid", route_prefix="/")
        except RuntimeError:
            failed = True
        if failed:
            raise LinkError(
                "link.replica_failed",
                "no replica of the endpoint came up.",
                "Try the same options with --local: it tells what is wrong.",
            )
        yield url or address(host, port, tls)
    finally:
        with unheard():
            serve.shutdown()
            ray.shutdown()


def address(host: str, port: int, tls: TLS | None) -> str:
    """Return the URL under which callers reach a server that listens on *host*.

    A host that means every address of this machine is none to call: its place takes a name that the
    certificate is for, or, without one, the machine's own.
    """
    if host in EVERY_ADDRESS:
        own = [name for name in certified(tls[0]) if not name.startswith("*")] if tls is not None else []
        host = next(iter(own), socket.gethostname())
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if tls is None else 'https'}://{shown}:{port}"


def known_as(host: str, tls: TLS | None, url: str | None) -> list[str]:
    """Return the names under which callers may ask a server that listens on *host* and is known as *url*."""
    names = [socket.gethostname() if host in EVERY_ADDRESS else f"[{host}]" if ":" in host else host]
    names += [] if tls is None else certified(tls[0])
    names += [] if url is None else [urlsplit(url).hostname or ""]
    return [*names, *LOOPBACK_NAMES] if _is_loopback(host) else names


def _is_loopback(host: str) -> bool:
    return f"[{host}]" in LOOPBACK_NAMES or host in LOOPBACK_NAMES


def certified(chain: Path) -> list[str]:
    """Return the names, then the addresses, that the certificate of *chain* is for."""
    from cryptography import x509

    try:
        own = x509.load_pem_x509_certificates(chain.read_bytes())[0]
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(one) for one in names.get_values_for_type(x509.IPAddress)),
    ]


def _with_device(settings: Settings) -> Settings:
    """Return *settings* with ``auto`` decided here: a replica that asks Ray for no GPU sees none."""
    if settings.device != "auto":
        return settings
    import torch

    return replace(settings, device="cuda" if torch.cuda.is_available() else "cpu")


def serve_on_ray(
    answer: Reply, settings: Settings, *, until_stdin_closes: bool = False, **options: Any
) -> None:
    """Serve until Ctrl-C; *options* are those of :func:`running`. It is ``ray`` of ``plasmid.servers``."""
    from plasmid.bases.store import ensure_model

    ensure_model(settings.base)
    with running(settings, **options) as url:
        ended = end_event(
            until_stdin_closes=until_stdin_closes
        )  # Ray has set its own handler of SIGTERM by now
        answer.note(f"{settings.base} is served at {url}/v1 (Ctrl-C ends it)")
        ended.wait()
    answer.data["url"] = url
