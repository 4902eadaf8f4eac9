"""A password or token in a file of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from plasmid.core.errors import DataError

MAX_BYTES = 16_384


def read_secret(path: Path) -> str:
    """Return the first line of *path*, without its end.

    Raises
    ------
    DataError
        ``data.secret_readable``: group or others can read it; ``data.secret_unusable``: it is no regular
        file, cannot be read, is no UTF-8 text, or its first line is empty or longer than 16 kB.
    """
    reason = "is empty"
    try:
        # A pipe of nobody's would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                reason = "is not a regular file"
            elif mode & (stat.S_IRWXG | stat.S_IRWXO):
                reason = ""
            else:
                line = opened.read(MAX_BYTES + 1).split(b"\n", 1)[0].removesuffix(b"\r")
                if len(line) > MAX_BYTES:
                    reason = f"has a first line of more than {MAX_BYTES} bytes"
                elif line:
                    return line.decode()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    if not reason:
        raise DataError(
            "data.secret_readable",
            f"{path} may be read by others ({stat.S_IMODE(mode):04o}), and holds a secret.",
            f"chmod 600 {path}, and change the secret if others have an account on this machine.",
        )
    raise DataError(
        "data.secret_unusable",
        f"{path} {reason}.",
        "Write the password or token as its first line, and let only the site's user read it (chmod 600).",
    )
