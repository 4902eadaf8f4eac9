"""A site's keys and its membership: rekey, rotate, leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasmid.cli.keys import PassphraseFd, PassphraseFile, site_keys
from plasmid.cli.output import Format, FormatOption, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.clock import stamp
from plasmid.core.errors import LinkError, UsageError
from plasmid.core.files import sync_folder
from plasmid.gateway.keys.keystore import check_new
from plasmid.gateway.keys.passphrase import find
from plasmid.gateway.status import is_up
from plasmid.log.audit_log import AuditLog
from plasmid.uplink.enrol import Credential
from plasmid.uplink.membership import leave as leave_coordinator
from plasmid.uplink.membership import renew


def rekey(
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(help="A file with the new passphrase; default: asked for, twice")
    ] = None,
    new_passphrase_fd: Annotated[
        int | None, typer.Option(help="An inherited descriptor to read the new one from", min=0)
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Change the passphrase of the site's keys. The keys stay; a running node is not disturbed."""
    with reply(format) as answer:
        site = site_at(home)
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd)
        identity = keys.identity()  # the old passphrase first
        what = f"the site {site.config().name}, the new one"
        new = find(what, file=new_passphrase_file, descriptor=new_passphrase_fd, twice=True, ambient=False)()
        check_new(new)
        AuditLog(site.audit, identity).write("rekeyed", actor="owner")
        keys.rekey(lambda: new)
        answer.data["folder"] = str(site.folder)
        answer.say("The keys are under the new passphrase.")


def rotate(
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Get a new TLS key and certificate now; a running node takes them up. It also does this by itself."""
    with reply(format) as answer:
        site = site_at(home)
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd)
        made = renew(Credential(site.folder), keys)
        AuditLog(site.audit, keys.identity()).write("rotated", actor="owner", until=stamp(made.ends))
        answer.data |= {"begins": stamp(made.begins), "ends": stamp(made.ends)}
        answer.say(f"The new certificate is valid until {stamp(made.ends)}; the old one ends within minutes.")


def leave(
    delete_keys: Annotated[
        bool, typer.Option("--delete-keys", help="Also delete the site's keys, for good")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Confirm: a site that has left does not come back")
    ] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Leave the coordinator for good. Ledger and log stay: they are the owner's proof."""
    with reply(format) as answer:
        site = site_at(home)
        if not yes:
            raise UsageError(
                "usage.not_confirmed",
                f"{site.config().name} would leave for good: its name and key are not enrolled again.",
                "Say --yes.",
            )
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd)
        log = AuditLog(site.audit, keys.identity())
        try:
            leave_coordinator(Credential(site.folder), keys)
        except LinkError as error:
            if error.code != "link.not_enrolled" or not delete_keys:
                raise  # it was revoked before: only what is here is left to do
        log.write("left", actor="owner", keys="deleted" if delete_keys else "kept")
        if delete_keys:
            for path in (site.keys, Credential(site.folder).certificate):
                path.unlink(missing_ok=True)
            sync_folder(site.folder)
        answer.data |= {"left": site.config().name, "keys_deleted": delete_keys, "running": is_up(site)}
        answer.say(
            f"{site.config().name} is a member no more.",
            f"The ledger and the log stay in {site.folder}: what left, and what privacy it cost, is in them.",
            "The keys are deleted." if delete_keys else "The keys stay; --delete-keys deletes them.",
        )
