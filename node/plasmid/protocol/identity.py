"""Ed25519 identities (RFC 8032) and the fingerprints by which people compare them.

Rules
-----
1. An identity key signs messages and statements; it never leaves its owner and is not the TLS key.
2. A key of small order is nobody's: nothing verifies under it.
3. A fingerprint is the first 140 bits of SHA-256 over the raw public key, in base32 groups of four.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Annotated, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import StringConstraints

from plasmid.core.errors import ProtocolError

PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A raw Ed25519 public key in hexadecimal."""


_P = 2**255 - 19
_SMALL_ORDER = {
    0,
    1,
    _P - 1,
    _P,
    _P + 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
}
"""The y coordinates of the points of order 1, 2, 4 and 8 on edwards25519, in every encoding."""


class Signer(Protocol):
    """Whoever holds a key and signs with it, without giving it away: a file, a keyring, an HSM."""

    @property
    def public(self) -> str:
        """The raw public key in hexadecimal."""

    def sign(self, data: bytes) -> str:
        """Return the signature of *data* in hexadecimal."""


class NamedSigner(Signer, Protocol):
    """A signer, and the name under which others know its key."""

    @property
    def name(self) -> str:
        """The party's name."""


class Identity:
    """A named signing key in memory."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self.name = name
        self._private = private

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Draw a new key from the operating system's generator."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, name: str, pem: bytes) -> Identity:
        """Read a key written by :meth:`to_pem`. Raises ProtocolError if it isn't one."""
        try:
            private = load_pem_private_key(pem, password=None)
        except ValueError as error:
            raise ProtocolError("protocol.identity", f"the identity key of {name} cannot be read.") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ProtocolError("protocol.identity", f"the identity key of {name} is not an Ed25519 key.")
        return cls(name, private)

    def to_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> str:
        """The raw public key in hexadecimal."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        """Return the signature of *data* in hexadecimal."""
        return self._private.sign(data).hex()


def is_degenerate(public: str) -> bool:
    """Return whether *public* is a point of small order, under which one signature fits many messages."""
    return int.from_bytes(bytes.fromhex(public), "little") % 2**255 in _SMALL_ORDER  # bit 255: sign of x


def verify(public: str, data: bytes, signature: str) -> None:
    """Check a signature. Raises ProtocolError (``protocol.signature``) if it isn't *public*'s over *data*."""
    try:
        if is_degenerate(public):
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(
            "protocol.signature", "a message does not carry its sender's signature; it was dropped."
        ) from error


def fingerprint(public: str) -> str:
    """Return the fingerprint of a raw public key, for example ``"ABCD-EFGH-..."`` (7 groups, 140 bits)."""
    text = base64.b32encode(hashlib.sha256(bytes.fromhex(public)).digest()).decode()[:28]
    return "-".join(re.findall("....", text))
