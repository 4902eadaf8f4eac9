"""The hub's process: a socket, uvicorn in a thread, and a collect when it starts.

Rules
-----
1. Tokens never cross a network in the clear: without a certificate only loopback is served.
2. One process serves a folder at a time; the verbs that make users and tokens run beside it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from cryptography.x509 import (
    DNSName,
    ExtensionNotFound,
    IPAddress,
    SubjectAlternativeName,
    load_pem_x509_certificate,
)
from fastapi import FastAPI

from plasmid.core.clock import now
from plasmid.core.errors import HubError, place
from plasmid.hub.app import build_app
from plasmid.hub.settings import Hub, HubSettings
from plasmid.hub.store.blob_retention import collect
from plasmid.link.connection_limits import GuardedServer, Limits, guarded

CONNECTIONS = Limits(head_bytes=64 * 1024)
"""Of the link's: what one connection, one address and all together may take."""
_GRACE_S = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """PEM files: the certificate with its chain, and its private key."""

    certificate: Path
    key: Path


@contextmanager
def serving(
    settings: HubSettings,
    *,
    host: str,
    port: int,
    tls: Tls | None,
    app: Callable[[Hub], FastAPI] = build_app,
) -> Iterator[str]:
    """Serve the hub until the block ends; yield the URL that clients use. Port 0: a free one.

    Raises
    ------
    HubError
        ``hub.plain_http``, ``hub.tls``, ``hub.in_use``, ``hub.port_taken``, ``hub.migrations``; ``hub.url``:
        it is not said, and does not follow from *host* and the certificate (:func:`reached`).
    """
    if tls is None and not _is_loopback(host):
        raise HubError(
            "hub.plain_http",
            f"without TLS, tokens and files would cross the network to {host} in the clear.",
            "Give --certificate and --key, or serve on 127.0.0.1 behind a proxy that has them.",
        )
    with _alone(settings.folder), _bound(host, port) as listening, ExitStack() as stack:
        served = _url(host, listening.getsockname()[1], tls)
        url = settings.url or reached(served, tls.certificate if tls else None)
        hub = stack.enter_context(replace(settings, url=url).open())
        server = GuardedServer(_config(app(hub), tls))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="hub", daemon=True)
        thread.start()
        threading.Thread(target=_tidy, args=(hub,), name="collect", daemon=True).start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield hub.settings.known_as()
        finally:
            server.should_exit = True
            thread.join()


def reached(served: str, certificate: Path | None) -> str | None:
    """Return how clients reach what listens at *served*: as that, or by the certificate's first name.

    None where the certificate is for neither that host nor a name without a ``*``.
    """
    at = urlsplit(served)
    host = at.hostname or ""
    if certificate is None:
        return served
    try:
        said = load_pem_x509_certificate(certificate.read_bytes()).extensions
        own = said.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return None
    except (OSError, ValueError):  # what is no certificate is told when TLS begins
        return served
    names = own.get_values_for_type(DNSName)
    if host in (*names, *map(str, own.get_values_for_type(IPAddress))):
        return served
    name = next((name for name in names if "*" not in name), None)
    return None if name is None else f"https://{name}:{at.port}"


def _config(app: FastAPI, tls: Tls | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=guarded(CONNECTIONS),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=str(tls.certificate) if tls else None,
        ssl_keyfile=str(tls.key) if tls else None,
    )
    problem = ""
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        problem = error.strerror or type(error).__name__
    if tls is not None and problem:
        raise HubError(
            "hub.tls",
            f"{tls.certificate} and {tls.key} are no certificate and its key: {problem}.",
            "Give PEM files: the certificate with its chain, and the key without a passphrase.",
        )
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def _tidy(hub: Hub) -> None:
    try:
        done = collect(hub.engine, hub.blobs, now())
    except Exception as error:  # noqa: BLE001 - a hub serves although it could not tidy up
        log.warning("the collect failed: %s", place(error))
    else:
        log.info("collected %d files, %d bytes, %d partial uploads", done.blobs, done.size, done.partial)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "hub.lock").open("a") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        if not held:
            raise HubError(
                "hub.in_use",
                f"another hub is served from {folder}.",
                "End it, or give this one another folder with --home.",
            )
        yield


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise HubError(
                "hub.port_taken",
                f"cannot listen on {host}:{port}: {error.strerror}.",
                "Choose another --port, or 0 to let the system choose.",
            ) from error
        yield listening


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(host: str, port: int, tls: Tls | None) -> str:
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
