"""Private keys at rest: a port, and the one implementation, a file encrypted under a passphrase.

Rules
-----
1. Callers get a signer and a password, never a private key, so a keyring, Vault or an HSM can take the
   place of :class:`EncryptedFile` by answering two calls.
2. The file is sealed with AES-256-GCM under a key that scrypt (RFC 7914) makes of the passphrase. What the
   file says in the clear (name, public key, cost) is authenticated with it. Salt and nonce are new at every
   writing.
3. A wrong passphrase and a changed file are one error, and nothing is written.
4. The identity key signs messages and statements. The TLS key lies in an encrypted PEM file, whose password
   is in here: so it can be replaced without the passphrase being changed, or asked for twice.
"""

from __future__ import annotations

import base64
import secrets
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from plasmid.core.canonical import canonical_json
from plasmid.core.errors import KeysError, UsageError
from plasmid.core.files import write_atomic
from plasmid.protocol.identity import Identity, NamedSigner, PublicKey
from plasmid.secagg.statements import SiteName

KEYS_FILE = "keys.json"
MIN_PASSPHRASE = 12
"""Characters of a new passphrase."""
MAX_PASSPHRASE_BYTES = 1024
MAX_FILE_BYTES = 16 * 1024

Passphrase = Callable[[], str]
"""Returns the passphrase from where it is; see :mod:`plasmid.gateway.keys.passphrase`."""


class KeyStore(Protocol):
    """What holds a party's private keys."""

    def identity(self) -> NamedSigner:
        """Return who signs. Raises KeysError where the keys cannot be used."""

    def tls_password(self) -> bytes:
        """Return the password of the TLS key's PEM file. Raises KeysError as :meth:`identity`."""


class Cost(BaseModel):
    """scrypt's parameters: a guess takes ``128 * n * r`` bytes, p times over."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n: Annotated[int, Field(ge=2, le=2**20)]
    r: Annotated[int, Field(ge=1, le=16)] = 8
    p: Annotated[int, Field(ge=1, le=16)] = 1

    @field_validator("n")
    @classmethod
    def _power_of_two(cls, n: int) -> int:
        if n & (n - 1):
            raise ValueError("n is a power of two")
        return n


CHOSEN = Cost(n=2**16, p=2)
"""For a passphrase that a person chose: 64 MiB, twice, and about 0.3 s a guess (as OWASP recommends)."""
DRAWN = Cost(n=2**10)
"""For one that :func:`draw_passphrase` drew: nobody guesses 256 random bits, so there is no guess to slow."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["plasmid-keys/1"] = "plasmid-keys/1"
    name: SiteName
    public: PublicKey
    kdf: Literal["scrypt"] = "scrypt"
    cost: Cost
    salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    cipher: Literal["AES-256-GCM"] = "AES-256-GCM"
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")]
    sealed: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{107}=$")]

    def associated(self) -> bytes:
        """Return what is authenticated beside the sealed part."""
        return canonical_json(self.model_dump(exclude={"sealed"}))


_SEED_BYTES = 32
_PASSWORD_BYTES = 32


class EncryptedFile:
    """A party's keys in ``keys.json``; opened at the first use, and then kept in memory.

    Parameters
    ----------
    passphrase
        Asked once, at the first use. Whoever must prove anew who he is makes a new object for each signature.
    """

    def __init__(self, path: Path, passphrase: Passphrase) -> None:
        self.path = path
        self._passphrase = passphrase
        self._opened: tuple[Identity, bytes] | None = None

    @classmethod
    def create(
        cls, path: Path, name: str, passphrase: Passphrase, *, cost: Cost | None = None
    ) -> EncryptedFile:
        """Draw new keys for *name* and write them to *path*, which may not exist.

        *cost* None: :data:`CHOSEN`.

        Raises
        ------
        UsageError
            ``usage.exists``; ``usage.name``: *name* cannot be a name.
        KeysError
            ``keys.weak_passphrase``, or what *passphrase* raises.
        """
        if path.exists():
            raise UsageError(
                "usage.exists",
                f"{path.parent} already holds keys.",
                "Choose another folder, or another name.",
            )
        seed, password = secrets.token_bytes(_SEED_BYTES), secrets.token_bytes(_PASSWORD_BYTES)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, name, seed, password, passphrase(), cost)
        made = cls(path, passphrase)
        made._opened = _usable(name, seed, password)
        return made

    @property
    def name(self) -> str:
        """Whose keys they are; needs no passphrase, and is proved by none."""
        return _read(self.path).name

    @property
    def public(self) -> str:
        """The raw public key in hexadecimal; as :attr:`name`."""
        return stated_key(self.path)

    def identity(self) -> Identity:
        """Return who signs.

        Raises
        ------
        KeysError
            ``keys.absent``, ``keys.damaged``; ``keys.passphrase``: the file does not open.
        """
        return self._open()[0]

    def tls_password(self) -> bytes:
        """Return the password of the TLS key's PEM file. Raises as :meth:`identity`."""
        return self._open()[1]

    def rekey(self, passphrase: Passphrase, *, cost: Cost | None = None) -> None:
        """Seal the same keys under another passphrase; the file is as it was, or wholly new.

        *cost* None: :data:`CHOSEN`.

        Raises
        ------
        KeysError
            As :meth:`identity`, for the old passphrase; ``keys.weak_passphrase``.
        """
        file = _read(self.path)
        seed, password = _unseal(self.path, file, self._passphrase())
        _write(self.path, file.name, seed, password, passphrase(), cost)
        self._passphrase, self._opened = passphrase, None

    def _open(self) -> tuple[Identity, bytes]:
        if self._opened is None:
            file = _read(self.path)
            seed, password = _unseal(self.path, file, self._passphrase())
            self._opened = _usable(file.name, seed, password)
        return self._opened


def _usable(name: str, seed: bytes, password: bytes) -> tuple[Identity, bytes]:
    return Identity(name, Ed25519PrivateKey.from_private_bytes(seed)), password.hex().encode()


def stated_key(path: Path) -> str:
    """Return the public key that the file of keys names. It is proved only when the file is opened.

    Raises
    ------
    KeysError
        ``keys.absent``, ``keys.damaged``.
    """
    return _read(path).public


def stated_cost(path: Path) -> Cost:
    """Return what a guess at the passphrase of the file of keys costs. Raises as :func:`stated_key`."""
    return _read(path).cost


def check_new(passphrase: str) -> None:
    """Raise KeysError (``keys.weak_passphrase``) if a new passphrase is too short or too long."""
    if len(passphrase) < MIN_PASSPHRASE or len(passphrase.encode()) > MAX_PASSPHRASE_BYTES:
        raise KeysError(
            "keys.weak_passphrase",
            f"a passphrase has {MIN_PASSPHRASE} characters or more, at most {MAX_PASSPHRASE_BYTES} bytes.",
            "Take several words.",
        )


def draw_passphrase(path: Path) -> None:
    """Write a new passphrase of 256 random bits to *path*, readable by its owner only."""
    write_atomic(path, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise KeysError(
            "keys.absent",
            f"there are no keys at {path}.",
            "Make them with 'plasmid site init' or 'plasmid login'.",
        ) from error
    try:
        if len(text) > MAX_FILE_BYTES:
            raise ValueError
        return _File.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        raise KeysError(
            "keys.damaged", f"{path} is not a file of keys.", "Restore it from your backup."
        ) from error


def _write(path: Path, name: str, seed: bytes, password: bytes, passphrase: str, cost: Cost | None) -> None:
    check_new(passphrase)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw().hex()
    try:
        blank = _File(
            name=name,
            public=public,
            cost=cost or CHOSEN,
            salt=secrets.token_hex(32),
            nonce=secrets.token_hex(12),
            sealed="A" * 107 + "=",
        )
    except ValidationError as error:
        raise UsageError(
            "usage.name", f"{name!r} cannot be a name.", "Use lower-case letters, digits, - and _."
        ) from error
    cipher = AESGCM(_derive(blank, passphrase))
    sealed = cipher.encrypt(bytes.fromhex(blank.nonce), seed + password, blank.associated())
    file = blank.model_copy(update={"sealed": base64.b64encode(sealed).decode()})
    write_atomic(path, file.model_dump_json(indent=1).encode() + b"\n", mode=0o600)


def _unseal(path: Path, file: _File, passphrase: str) -> tuple[bytes, bytes]:
    cipher = AESGCM(_derive(file, passphrase))
    try:
        plain = cipher.decrypt(bytes.fromhex(file.nonce), base64.b64decode(file.sealed), file.associated())
    except InvalidTag:
        # "from None": nothing of the attempt is worth a line in a log
        raise KeysError(
            "keys.passphrase",
            f"the keys in {path} do not open: the passphrase is wrong, or the file was changed.",
            "Try again; nothing was changed. Without the passphrase the keys are lost: make new ones.",
        ) from None
    return plain[:_SEED_BYTES], plain[_SEED_BYTES:]


def _derive(file: _File, passphrase: str) -> bytes:
    """Return the file's AES key. The passphrase is NFKC first: keyboards spell one letter in several ways."""
    cost = file.cost
    kdf = Scrypt(salt=bytes.fromhex(file.salt), length=32, n=cost.n, r=cost.r, p=cost.p)
    return kdf.derive(unicodedata.normalize("NFKC", passphrase).encode())
