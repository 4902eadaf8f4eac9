"""How a site or a person gets out of a corporate network: ``network`` in site.yaml, or network.yaml.

Rules
-----
1. Nothing is taken from the environment. Without settings, TLS ends at the coordinator, under its pinned CA.
2. ``proxy`` is asked for a tunnel (CONNECT); TLS still ends at the coordinator. Its password lies in a file
   that only its owner can read.
3. ``ca`` also accepts certificates of a company's own CA, or of whom the operating system trusts: only a
   proxy that terminates TLS needs it. What such a proxy relays is signed (:mod:`plasmid.uplink.signing`).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import httpx
from pydantic import BaseModel, ConfigDict, Field

from plasmid.core.errors import UsageError
from plasmid.core.settings import read_settings

SYSTEM = "system"
MAX_AUTH_BYTES = 4096


class Network(BaseModel):
    """Settings of the outbound connection; all None: straight to the coordinator.

    Attributes
    ----------
    proxy
        ``http://host:port`` or ``https://host:port`` of a CONNECT proxy. Credentials do not belong here.
    proxy_auth
        A file with one line ``user:password`` for the proxy, relative to the folder of the settings.
    ca
        ``system`` for what the operating system trusts, or a PEM file relative to the folder of the settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    proxy: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9._\[\]:-]+:\d{1,5}$")] | None = None
    proxy_auth: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    ca: Annotated[str, Field(min_length=1, max_length=4096)] | None = None

    @property
    def may_be_intercepted(self) -> bool:
        """Whether TLS may end at a proxy."""
        return self.ca is not None

    def context(self, pinned: Path) -> ssl.SSLContext:
        """Return the client context for a coordinator; its CA certificate *pinned* lies beside the settings.

        Raises
        ------
        UsageError
            ``usage.network``: ``ca`` cannot be read.
        """
        if self.ca is None:
            context = ssl.create_default_context(cafile=str(pinned))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            return context
        context = self._outer(pinned.parent)
        context.load_verify_locations(cafile=str(pinned))
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # what many terminating proxies speak
        return context

    def through(self, folder: Path) -> httpx.Proxy | None:
        """Return the proxy, with its credentials; None without one.

        Raises
        ------
        UsageError
            ``usage.network``: ``proxy_auth`` cannot be used, or others may read it.
        """
        if self.proxy is None:
            return None
        auth = _credentials(folder / self.proxy_auth) if self.proxy_auth else None
        context = self._outer(folder) if self.proxy.startswith("https:") else None
        return httpx.Proxy(self.proxy, auth=auth, ssl_context=context)

    def _outer(self, folder: Path) -> ssl.SSLContext:
        if self.ca in (None, SYSTEM):
            import truststore

            context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            return context
        path = folder / str(self.ca)
        try:
            return ssl.create_default_context(cafile=str(path))
        except OSError as error:
            raise UsageError(
                "usage.network",
                f"the CA file {path} cannot be used: {error.strerror or 'it holds no certificate'}.",
                "Ask your IT department for the certificate of the proxy's CA, in PEM.",
            ) from error


def read_network(path: Path) -> Network:
    """Return the settings in *path*, or none if it is absent. Raises RecipeError (``recipe.invalid``)."""
    return read_settings(path, Network) if path.exists() else Network()


def _credentials(path: Path) -> tuple[str, str]:
    try:
        open_to_others = path.stat().st_mode & 0o077
        with path.open("rb") as file:
            text = file.read(MAX_AUTH_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, "it cannot be read") from error
    user, colon, password = text.strip().partition(":")
    if open_to_others:
        raise _unusable(path, "others may read it (chmod 600)")
    if not (user and colon) or "\n" in password:
        raise _unusable(path, "it is not one line user:password")
    return user, password


def _unusable(path: Path, why: str) -> UsageError:
    return UsageError(
        "usage.network", f"the proxy's credentials in {path} are not used: {why}.", "Correct the file."
    )
