"""The gateway's own process: what ``plasmid site start`` becomes.

Rules
-----
1. The verb replaces itself by this module (execve(2)), so that the process which holds a site's keys holds no
   command line: what it was told is one JSON object, its only argument.
2. It answers as a verb does: one JSON object on stdout, or text on stderr.
3. No dump of it is written: that would hold its keys.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from plasmid.core.answers import envelope, known, log_to_stderr
from plasmid.core.errors import PlasmidError
from plasmid.core.lifetime import end_event
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import EncryptedFile
from plasmid.gateway.keys.passphrase import find


@dataclass(frozen=True)
class Start:
    """What the verb tells the process.

    Attributes
    ----------
    home
        The site's folder.
    passphrase_file, passphrase_fd
        Where its passphrase is (:func:`plasmid.gateway.keys.passphrase.find`).
    until_stdin_closes
        Whether it ends when its standard input does.
    machine
        Whether a program reads the answer.
    """

    home: str
    passphrase_file: str | None
    passphrase_fd: int | None
    until_stdin_closes: bool
    machine: bool


def become(start: Start) -> NoReturn:
    """Replace this process by the gateway's."""
    if start.passphrase_fd is not None:
        os.set_inheritable(start.passphrase_fd, True)
    sys.stdout.flush()
    sys.stderr.flush()
    told = json.dumps(asdict(start))
    os.execv(sys.executable, [sys.executable, "-P", "-m", __name__, told])  # noqa: S606 - ourselves


def main(start: Start) -> int:
    """Run the site until it is ended; return the exit status."""
    log_to_stderr()
    error: PlasmidError | None = None
    status, data = 0, {}
    try:
        data = {"site": _serve(start)}
    except (Exception, KeyboardInterrupt) as problem:
        found = known(problem)
        if found is None:
            raise
        error, status = found
    if start.machine:
        sys.stdout.write(envelope(data, error) + "\n")
    elif error is not None:
        sys.stderr.write(f"error [{error.code}] {error.message}\n{error.hint}".rstrip() + "\n")
    return status


def _serve(start: Start) -> str:
    from plasmid.gateway.node import Node  # which the verb, about to be replaced, does without

    ended = end_event(until_stdin_closes=start.until_stdin_closes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    home = SiteHome(Path(start.home))
    file = None if start.passphrase_file is None else Path(start.passphrase_file)
    passphrase = find(f"the site {home.config().name}", file=file, descriptor=start.passphrase_fd)
    node = Node(home, EncryptedFile(home.keys, passphrase))
    failure: list[BaseException] = []

    def serve() -> None:
        try:
            node.serve()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which answers for it
            failure.append(error)
        ended.set()

    threading.Thread(target=serve, daemon=True).start()
    sys.stderr.write(f"site {node.gateway.site} is up (Ctrl-C ends it)\n")
    ended.wait()
    node.close()
    if failure:
        raise failure[0]
    return node.gateway.site


if __name__ == "__main__":
    sys.exit(main(Start(**json.loads(sys.argv[1]))))
