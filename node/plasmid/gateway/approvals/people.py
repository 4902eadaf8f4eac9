"""The named people at a data owner whose signatures approve recipes.

Rules
-----
1. A person draws a key at home, under a passphrase of his own: ``people/<name>.json`` holds the public
   record, ``people/<name>.keys.json`` the key, sealed.
2. Every signature asks for the passphrase anew (21 CFR 11.200): no opened key is kept.
3. A record is made once. Who loses his passphrase gets another name; what he signed stays his.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from plasmid.core.canonical import canonical_json
from plasmid.core.clock import Stamp, stamp
from plasmid.core.errors import KeysError, StorageError, UsageError
from plasmid.core.files import write_atomic
from plasmid.gateway.keys.keystore import Cost, EncryptedFile, Passphrase
from plasmid.protocol.identity import PublicKey, Signer
from plasmid.secagg.statements import SiteName

Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^\S(?:[^\x00-\x1f]*\S)?$")]


class Person(BaseModel):
    """The public record of one person: printed name, role, key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: SiteName
    full_name: Line
    role: Line
    key: PublicKey
    since: Stamp


class People:
    """The folder ``people`` of a site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(
        self,
        name: str,
        *,
        full_name: str,
        role: str,
        passphrase: Passphrase,
        cost: Cost | None = None,
        since: datetime,
    ) -> Person:
        """Draw a key for *name* and write the record.

        Raises
        ------
        UsageError
            ``usage.name``: a name that cannot be one; ``usage.exists``.
        KeysError
            As :meth:`EncryptedFile.create`.
        """
        try:
            values = {"name": name, "full_name": full_name, "role": role, "since": stamp(since)}
            Person.model_validate({**values, "key": "0" * 64})
        except ValidationError as error:
            where = ", ".join(str(problem["loc"][0]) for problem in error.errors(include_input=False))
            raise UsageError(
                "usage.name",
                f"a person cannot be recorded with this {where}.",
                "A name has lower-case letters, digits, - and _; full name and role are one line each.",
            ) from error
        if self._record(name).exists():
            raise UsageError("usage.exists", f"there is a person {name!r} already.", "Choose another name.")
        keys = EncryptedFile.create(self._keys(name), name, passphrase, cost=cost)
        person = Person.model_validate({**values, "key": keys.public})
        write_atomic(self._record(name), canonical_json(person.model_dump(mode="json")))
        return person

    def all(self) -> list[Person]:
        """Return every person, by name. Raises StorageError (``storage.person``) for a damaged record."""
        files = sorted(self._folder.glob("*.json"))
        return [self._read(file) for file in files if not file.name.endswith(".keys.json")]

    def get(self, name: str) -> Person:
        """Return a person. Raises UsageError (``usage.no_person``)."""
        try:
            TypeAdapter(SiteName).validate_python(name)
            return self._read(self._record(name))
        except (ValidationError, FileNotFoundError):
            known = ", ".join(person.name for person in self.all()) or "nobody"
            raise UsageError(
                "usage.no_person",
                f"no person of this site is called {name[:63]!r} (known: {known}).",
                "Make a record with 'plasmid approvals person NAME'.",
            ) from None

    def known_as(self, key: str, name: str | None) -> set[str]:
        """Return the names of the people who have this *key*, or this *name* where it is given."""
        return {person.name for person in self.all() if person.key == key or person.name == name}

    def signer(self, name: str, passphrase: Passphrase) -> Signer:
        """Return *name*'s key for one signature.

        Raises
        ------
        UsageError
            ``usage.no_person``.
        KeysError
            ``keys.passphrase`` and as :meth:`EncryptedFile.identity`; ``keys.damaged``: it is not the key of
            the public record.
        """
        person = self.get(name)
        signer = EncryptedFile(self._keys(name), passphrase).identity()
        if (signer.name, signer.public) != (person.name, person.key):
            raise KeysError(
                "keys.damaged",
                f"the keys of {name} are not those of the public record.",
                "One of the two files was exchanged: restore both from a copy.",
            )
        return signer

    def _read(self, path: Path) -> Person:
        try:
            return Person.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StorageError(
                "storage.person", f"{path} does not hold a person's record.", "Restore it from a copy."
            ) from error

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _keys(self, name: str) -> Path:
        return self._folder / f"{name}.keys.json"
