"""An owner's site with real files, and a run that waits for its people: what the owner's verbs work on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from plasmid.gateway.keys.keystore import Cost, EncryptedFile
from plasmid.recipes.query import QueryDocument
from support.federation.approving import SECRET, allow_approved
from support.federation.attacks import private
from support.federation.in_memory import Federation


class Office:
    """alpha's folder below *root*: ann and bob may approve, and a run of a mean of ages waits for both."""

    def __init__(self, root: Path, **approvers: Any) -> None:
        self.federation: Federation = private(root)
        self.home = self.federation.home("alpha")
        EncryptedFile.create(self.home.keys, "alpha", lambda: "never opened here", cost=Cost(n=2**10))
        keys = json.loads(self.home.keys.read_text())  # what it states is read, its seal is not
        keys["public"] = self.federation.identities["alpha"].public
        self.home.keys.write_text(json.dumps(keys))
        allow_approved(self.federation, **approvers)

    def ask(self, **changes: Any) -> str:
        """Have the run, or one of a changed query, wait for approval; return the recipe's digest."""
        request: dict[str, Any] = {}
        if changes:
            values = {**self.federation.values, **changes}
            document = QueryDocument.model_validate(values)
            from support.federation.in_memory import document_of

            request["document"], request["digest"] = document_of(document)
        admission = self.federation.gateways["alpha"].answer(self.federation.admitting(**request))
        assert admission.code == "policy.awaiting_approval", admission
        return str(request.get("digest", self.federation.digest))

    def secret(self, name: str) -> Path:
        """Return the file that holds a person's passphrase."""
        path = self.federation.root / f"{name}.passphrase"
        path.write_text(SECRET.format(name))
        path.chmod(0o600)
        return path


def call(app: Any, *arguments: Any, text: bool = False) -> tuple[int, Any]:
    """Run a verb; return its exit status and its JSON answer, or with *text* all that it prints."""
    how = [] if text else ["--format", "json"]
    result = CliRunner().invoke(app, [*map(str, arguments), *how])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output if text else json.loads(result.stdout.splitlines()[-1])
