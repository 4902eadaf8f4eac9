"""What a site makes of a peer's checkpoints and cosignatures: changed, and signed anew by that peer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from fuzz.registry import json_object, maker, scratch
from fuzz.runner import Target
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError
from plasmid.protocol.checkpoint import Note, cosign, parse_note
from plasmid.protocol.messages import LogCheckpoint, LogCosignature, sign
from support.federation.cosigners import Cosigners


class Exchange:
    """Beta holds a checkpoint of alpha's log; alpha's log has grown, and beta is asked again."""

    def __init__(self) -> None:
        self.sites = Cosigners(scratch() / "cosigning")
        self.alpha, self.beta = (self.sites.parts[name] for name in ("alpha", "beta"))
        for _ in range(3):
            self._write()
        self.sites.exchange("alpha")
        for _ in range(4):
            self._write()
        (self.asked,) = self.alpha.offers(to="beta")
        self._offered = dict(self.alpha._offered)
        paths = (self.sites.logs["beta"].files.peers, self.sites.logs["alpha"].files.cosigned)
        self._kept = {path: path.read_bytes() for path in paths}
        for log in self.sites.logs.values():
            log.write = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        self.answered, _ = self.beta.answer(self.asked)

    def _write(self) -> None:
        self.sites.logs["alpha"].write("noted", reason="something")

    def restore(self) -> None:
        """Forget what was said since."""
        self.alpha._offered = dict(self._offered)
        for path, content in self._kept.items():
            path.write_bytes(content)

    def signed_note(self, text: Any) -> Any:
        """Return a note, if *text* is one, with alpha's signature under its checkpoint."""
        try:
            note = parse_note(text)
        except (ProtocolError, TypeError, AttributeError):
            return text
        return Note(note.checkpoint).signed(self.sites.identities["alpha"], "alpha").text()

    def cosigned_line(self, text: Any) -> Any:
        """Return beta's own line where *text* is one that beta could have made for another time."""
        if not isinstance(text, str) or not text.startswith("\u2014 beta "):
            return text
        return cosign(
            parse_note(self.asked.note).checkpoint, self.sites.identities["beta"], "beta", len(text)
        )


@maker
def _exchange() -> Iterator[Target]:
    exchange = Exchange()

    def parsed(kind: type[Any], values: dict[str, Any]) -> Any:
        try:
            return kind.model_validate_json(canonical_json(values))
        except (ValidationError, ValueError) as error:
            raise ProtocolError("protocol.malformed", "the form is tested elsewhere") from error

    def asked(data: bytes) -> None:
        exchange.restore()
        values = json_object(data)
        if len(data) % 4:
            values["note"] = exchange.signed_note(values.get("note"))
        message = sign(exchange.sites.identities["alpha"], parsed(LogCheckpoint, values))
        exchange.beta.answer(exchange.beta.open(message))  # type: ignore[arg-type]

    def answered(data: bytes) -> None:
        exchange.restore()
        values = json_object(data)
        if len(data) % 4:
            values["line"] = exchange.cosigned_line(values.get("line"))
            values["held"] = exchange.signed_note(values.get("held"))
        message = sign(exchange.sites.identities["beta"], parsed(LogCosignature, values))
        exchange.alpha.take(exchange.alpha.open(message))  # type: ignore[arg-type]

    behind = exchange.answered.model_copy(update={"line": "", "held": exchange.asked.note})
    seeds = [canonical_json(said.model_dump(mode="json")) for said in (exchange.answered, behind)]
    request = canonical_json(exchange.asked.model_dump(mode="json"))
    yield Target("cosigning: checkpoint", [request], asked, cost=20)
    yield Target("cosigning: cosignature", seeds, answered, cost=20)
