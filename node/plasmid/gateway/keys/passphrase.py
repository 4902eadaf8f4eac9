"""Where a passphrase comes from: a terminal, an inherited descriptor, or a file.

Rules
-----
1. Never an argument or a variable: others can read them, and they end up in logs. Both name a place at
   most: ``--passphrase-file``, ``--passphrase-fd``, ``PLASMID_PASSPHRASE_FILE``.
2. Under systemd, ``LoadCredential=plasmid-passphrase:...`` is found without being named.
3. A file that others may read is refused.
4. What is said first counts: descriptor, ``--passphrase-file``, the variable, systemd, the terminal.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from plasmid.core.errors import KeysError
from plasmid.gateway.keys.keystore import MAX_PASSPHRASE_BYTES, Passphrase

FILE_VARIABLE = "PLASMID_PASSPHRASE_FILE"
_SYSTEMD_FOLDER, _SYSTEMD_NAME = "CREDENTIALS_DIRECTORY", "plasmid-passphrase"


def find(
    what: str,
    *,
    file: Path | None = None,
    descriptor: int | None = None,
    twice: bool = False,
    ambient: bool = True,
) -> Passphrase:
    """Return the source that the user has named, else the terminal.

    Parameters
    ----------
    what
        Whose keys it opens, for the prompt.
    twice
        Ask twice at the terminal, since the passphrase is new.
    ambient
        Whether the variable and systemd count; they do not say where a second passphrase is.
    """
    if descriptor is not None:
        return from_descriptor(descriptor)
    if file is not None:
        return from_file(file)
    if ambient and os.environ.get(FILE_VARIABLE):
        return from_file(Path(os.environ[FILE_VARIABLE]))
    folder = os.environ.get(_SYSTEMD_FOLDER) if ambient else None
    if folder and (Path(folder) / _SYSTEMD_NAME).exists():
        # systemd lets its service read by an access list, which stat shows as the group's right
        return from_file(Path(folder) / _SYSTEMD_NAME, others=stat.S_IRWXO)
    return from_terminal(what, twice=twice)


def drawn_file(folder: Path) -> Path:
    """Return where a launcher leaves the passphrase that it drew for the keys in *folder*."""
    return folder / "passphrase"


def from_file(path: Path, *, others: int = stat.S_IRWXG | stat.S_IRWXO) -> Passphrase:
    """Return a source that reads the first line of *path*.

    Parameters
    ----------
    others
        The mode bits that the file may not have.

    Raises
    ------
    KeysError
        When asked: ``keys.passphrase_file``: it cannot be read, is no file, or others may read it.
    """

    def read() -> str:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe of nobody's would block for ever
            with os.fdopen(descriptor, "rb") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise _unusable(f"{path} is not a file")
                if mode & others:
                    raise _unusable(f"{path} may be read by others ({stat.S_IMODE(mode):04o})")
                return _first_line(opened.read(MAX_PASSPHRASE_BYTES + 2), str(path))
        except OSError as error:
            raise _unusable(f"{path} cannot be read: {error.strerror}") from error

    return read


def from_descriptor(descriptor: int) -> Passphrase:
    """Return a source that reads an inherited descriptor to its end, once, and closes it.

    Raises
    ------
    KeysError
        When asked: ``keys.passphrase_file``.
    """
    known: list[str] = []

    def read() -> str:
        if not known:
            try:
                with os.fdopen(descriptor, "rb") as opened:
                    known.append(_first_line(opened.read(MAX_PASSPHRASE_BYTES + 2), f"fd {descriptor}"))
            except OSError as error:
                raise _unusable(f"descriptor {descriptor} cannot be read: {error.strerror}") from error
        return known[0]

    return read


def from_terminal(what: str, *, twice: bool = False) -> Passphrase:
    """Return a source that asks at the terminal, without echo.

    Raises
    ------
    KeysError
        When asked: ``keys.no_passphrase``: there is no terminal; ``keys.passphrases_differ``.
    """

    def ask() -> str:
        if not sys.stdin.isatty():
            raise KeysError(
                "keys.no_passphrase",
                f"the keys of {what} need their passphrase, and there is no terminal to ask at.",
                f"Give --passphrase-file or --passphrase-fd, or let {FILE_VARIABLE} name a file.",
            )
        said = getpass.getpass(f"Passphrase of {what}: ")
        if twice and getpass.getpass("The same again: ") != said:
            raise KeysError("keys.passphrases_differ", "the two passphrases differ.", "Start again.")
        return said

    return ask


def _first_line(text: bytes, where: str) -> str:
    line = text.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line or len(line) > MAX_PASSPHRASE_BYTES:
        raise _unusable(f"the first line of {where} is empty or longer than {MAX_PASSPHRASE_BYTES} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError:
        # "from None": the error would quote the line
        raise _unusable(f"{where} is not UTF-8 text") from None


def _unusable(why: str) -> KeysError:
    return KeysError(
        "keys.passphrase_file",
        f"no passphrase: {why}.",
        "Give a file of mode 0600 with the passphrase as its first line.",
    )
