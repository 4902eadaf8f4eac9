"""The hub's secret key: it signs links to upload to, and the sessions of people who have logged in.

Rules
-----
1. It is kept in the database, so that what one process of a hub has signed holds for every other one. Who can
   read the database can sign, too.
2. Each use has a text of its own in front of what is signed: a link is never a session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.dialects import postgresql, sqlite

from plasmid.hub.store.database import writing
from plasmid.hub.store.tables import SecretRow

_BYTES = 32


def hub_key(engine: Engine) -> bytes:
    """Return the hub's key, 32 bytes, made at the first call of the first process."""
    wanted = select(SecretRow.value).where(SecretRow.name == "key")
    with engine.connect() as connection:
        found = connection.execute(wanted).scalar_one_or_none()
    if found is None:
        kind: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
        row = kind(SecretRow).values(name="key", value=secrets.token_hex(_BYTES))
        with writing(engine) as connection:
            connection.execute(row.on_conflict_do_nothing())
            found = connection.execute(wanted).scalar_one()
    return bytes.fromhex(found)


def sign(key: bytes, use: str, *parts: object) -> str:
    """Return the signature (HMAC-SHA-256, 64 hexadecimal digits) of *parts*, for one *use*."""
    text = "\n".join(map(str, (f"plasmid.hub.{use}/1", *parts)))
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def signed(key: bytes, signature: str, use: str, *parts: object) -> bool:
    """Return whether *signature* is that of *parts*, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(sign(key, use, *parts).encode(), signature.encode("utf-8", "surrogatepass"))
