"""The red team: every attack holds against a site as it is, and shows where a defence is switched off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from plasmid.cli.verbs.doctor import app
from plasmid.core.errors import ProtocolError
from plasmid.dp.budgets import Accounts
from plasmid.gateway import admission, epochs, gateway, pause
from plasmid.gateway import ledger_chain as chain
from plasmid.gateway.gateway import Gateway
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.members import projects
from plasmid.gateway.policy import conditions
from plasmid.gateway.policy.file import Policy
from plasmid.gateway.replay import Marks
from plasmid.log.audit_log import AuditLog
from plasmid.owner import red_team
from plasmid.owner.page.sessions import Session, Sessions
from plasmid.owner.red_team.attack import (
    Attack,
    ControlFailedError,
    DidNotHoldError,
    Outcome,
    carry_out,
    refuses,
)
from plasmid.protocol import messages
from plasmid.protocol.project import Project
from plasmid.web.request_checks import Guard
from support.federation.owner_site import make_site

BY_NAME = {attack.name: attack for attack in red_team.ATTACKS}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "site")[0]


def outcome(home: SiteHome, name: str) -> Outcome:
    (found,) = red_team.run(home, (BY_NAME[name],))
    return found


@pytest.mark.parametrize("name", BY_NAME)
def test_every_attack_holds_against_a_site_as_it_is(home: SiteHome, name: str) -> None:
    found = outcome(home, name)
    assert (found.held, found.detail) == (True, "")


# -- with a defence switched off, the attack shows -----------------------------------------------------

Patch = pytest.MonkeyPatch
Off = Callable[[Patch], None]


def nothing(*_: Any, **__: Any) -> None:
    """Stand in the place of a check."""


def no_rules(patch: Patch) -> None:
    for module in (admission, conditions):
        patch.setattr(module, "refuse", nothing)
    patch.setattr(conditions, "accepting", lambda grants, _: list(grants))


def no_signatures(patch: Patch) -> None:
    patch.setattr(messages, "verify", nothing)


def any_policy(patch: Patch) -> None:
    def read(path: Path) -> Policy:
        return Policy.model_validate({"allow": [{"recipes": ["0" * 64]}]})

    patch.setattr(conditions, "read_policy", read)
    no_rules(patch)


def no_digest(patch: Patch) -> None:
    patch.setattr(admission, "recipe_digest", lambda document, _: known(document))

    def known(document: dict[str, Any]) -> str:
        from plasmid.recipes.digest import recipe_digest

        return recipe_digest({**document, "length": 6}, "ping")


def no_launchers(patch: Patch) -> None:
    patch.setattr(Project, "launcher", lambda self, key: self.people[0])
    no_signatures(patch)


def no_project_signatures(patch: Patch) -> None:
    patch.setattr(Project, "check_signed", nothing)


def no_reach(patch: Patch) -> None:
    patch.setattr(Project, "check_reach", nothing)


def one_request_many_runs(patch: Patch) -> None:
    patch.setattr(projects, "run_id", lambda request: Anything())


class Anything(str):
    """Equal to every id."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def no_clock_skew(patch: Patch) -> None:
    from datetime import timedelta

    patch.setattr(projects, "CLOCK_SKEW", timedelta(days=1))


def no_budget(patch: Patch) -> None:
    patch.setattr(Accounts, "check", nothing)


def never_paused(patch: Patch) -> None:
    for module in (admission, gateway, pause):
        patch.setattr(module, "check_running", nothing)


def no_organisations(patch: Patch) -> None:
    patch.setattr(epochs, "check_colluders", nothing)
    patch.setattr(epochs.Epochs, "_check_organisations", nothing)


def forgets_answers(patch: Patch) -> None:
    """Every manifest gets a new vector; a slot may be masked again."""
    from plasmid.secagg.site import SiteEpoch

    contribute, mask = Gateway.contribute, SiteEpoch.mask

    def again(self: Gateway, manifest: Any, computation: Any) -> Any:
        self.run(manifest.run).last = ((0, -1), "", None)
        return contribute(self, manifest, computation)

    def any_slot(self: SiteEpoch, words: Any, *, slot: int, **named: Any) -> Any:
        try:
            return mask(self, words, slot=slot, **named)
        except ProtocolError:
            return bytes(8)

    patch.setattr(Gateway, "contribute", again)
    patch.setattr(SiteEpoch, "mask", any_slot)
    patch.setattr(SiteEpoch, "contributed", nothing)


def any_manifest(patch: Patch) -> None:
    patch.setattr(gateway, "check_manifest", lambda site, admitted, manifest: admitted.shape)


def any_vector(patch: Patch) -> None:
    from plasmid.owner.red_team import rounds

    for module in (gateway, rounds):
        patch.setattr(module, "bounded", lambda vector, shape, *, noised: (vector, 0.0))
    patch.setattr(gateway.Gateway, "_protect", lambda *_: (np.zeros(8, np.uint32), bytes(8)))


def talks(patch: Patch) -> None:
    patch.setattr(Gateway, "public", lambda self, error: (error.code, error.message))


def verifies_nothing(patch: Patch) -> None:
    patch.setattr(AuditLog, "verify", lambda self: True)


def no_clock(patch: Patch) -> None:
    patch.setattr(AuditLog, "_check_clock", nothing)


def no_chain(patch: Patch) -> None:
    def verify(line: bytes, head: Any) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(line)
        return entry

    patch.setattr(chain, "verify", verify)


def no_memory(patch: Patch) -> None:
    patch.setattr(Ledger, "check_seen", nothing)


def anybody_in(patch: Patch) -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    patch.setattr(Sessions, "find", lambda self, cookie: Session("t", now, now))


def forms_from_anywhere(patch: Patch) -> None:
    patch.setattr(Guard, "refusal", lambda self, *_: None)


def forms_without_a_token(patch: Patch) -> None:
    patch.setattr(Session, "owns", lambda self, token: True)


def no_epochs(patch: Patch) -> None:
    patch.setattr(Marks, "claim_epoch", nothing)


def any_name(patch: Patch) -> None:
    from types import SimpleNamespace

    patch.setattr(
        Gateway, "answer", lambda self, request: SimpleNamespace(accepted=True, code="", terms=None)
    )


def yes_to(patch: Patch, kind: str) -> None:
    relay = epochs.Epochs.relay

    def say(self: epochs.Epochs, admitted: Any, message: Any) -> Any:
        return "yes" if message.kind == kind else relay(self, admitted, message)

    patch.setattr(epochs.Epochs, "relay", say)


def agrees_to_anything(patch: Patch) -> None:
    yes_to(patch, "contribution")


def opens_anything(patch: Patch) -> None:
    yes_to(patch, "consent")


def any_round(patch: Patch) -> None:
    patch.setattr(Marks, "check_round", nothing)


def short_for_zeros(patch: Patch) -> None:
    from plasmid.secagg.site import SiteEpoch

    patch.setattr(Gateway, "_protect", lambda *said: (np.zeros(8 if said[3].any() else 9, np.uint32), None))
    patch.setattr(SiteEpoch, "contributed", nothing)


def reads_anything(patch: Patch) -> None:
    from plasmid.owner.red_team import sums

    patch.setattr(sums, "unpack", lambda body, **_: np.zeros(6, np.float32))


OFF: list[tuple[str, Off]] = [
    ("unapproved", no_rules),
    ("no policy", any_policy),
    ("broken policy", any_policy),
    ("edited document", no_digest),
    ("edited document", no_signatures),
    ("forged requester", no_signatures),
    ("forged requester", no_launchers),
    ("unsigned project", no_project_signatures),
    ("beyond the project", no_reach),
    ("another run", one_request_many_runs),
    ("from the future", no_clock_skew),
    ("over budget", no_budget),
    ("path in a name", any_name),
    ("oversized", any_name),
    ("paused", never_paused),
    ("not the coordinator", no_signatures),
    ("swapped key", no_signatures),
    ("invented site", no_organisations),
    ("replayed manifest", forgets_answers),
    ("replayed manifest", no_epochs),
    ("slot reuse", forgets_answers),
    ("downgrade", any_manifest),
    ("bad vector", any_vector),
    ("size is clipped", any_vector),
    ("pause while computing", never_paused),
    ("row in an error", talks),
    ("all others collude", no_organisations),
    ("two organisations", no_organisations),
    ("two views", agrees_to_anything),
    ("opened early", opens_anything),
    ("summed again", any_round),
    ("length of a body", short_for_zeros),
    ("header bombs", reads_anything),
    ("renamed view", no_budget),
    ("edited log", verifies_nothing),
    ("cut log", verifies_nothing),
    ("clock set back", no_clock),
    ("edited ledger", no_chain),
    ("ledger rolled back", no_memory),
    ("page without login", anybody_in),
    ("page from elsewhere", forms_from_anywhere),
    ("page from elsewhere", forms_without_a_token),
]


@pytest.mark.parametrize(("name", "off"), OFF, ids=[f"{name}, {off.__name__}" for name, off in OFF])
def test_an_attack_shows_a_defence_that_is_switched_off(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, name: str, off: Off
) -> None:
    off(monkeypatch)
    found = outcome(home, name)
    assert found.detail.startswith("DID NOT HOLD"), found.detail


def test_every_attack_but_the_sandbox_s_has_such_a_control() -> None:
    without = {name for name in BY_NAME if not name.startswith("sandbox: ")} - {name for name, _ in OFF}
    assert without == {"wrong passphrase"}, (
        "AES-GCM cannot be switched off from outside; see test_keystore.py"
    )


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith("sandbox: ")])
def test_without_a_sandbox_every_escape_works(home: SiteHome, name: str) -> None:
    home.write_config(SiteConfig(**{**home.config().model_dump(), "isolation": "none"}))
    found = outcome(home, name)
    assert found.detail == "DID NOT HOLD: it works in none"


# -- the judge -------------------------------------------------------------------------------------


def judged(run: Callable[[None], None]) -> Outcome:
    (found,) = carry_out([Attack("one", 1, "It attacks.", run)], lambda: None)
    return found


def raises(error: BaseException) -> Callable[[None], None]:
    def run(_: None) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "detail"),
    [
        (lambda _: None, ""),
        (raises(DidNotHoldError("it left")), "DID NOT HOLD: it left"),
        (raises(ControlFailedError("the control failed: x")), "not shown: the control failed: x"),
        (raises(ProtocolError("protocol.manifest", "no")), "not shown: protocol.manifest: no"),
    ],
)
def test_only_what_was_refused_after_a_control_holds(run: Callable[[None], None], detail: str) -> None:
    assert (judged(run).held, judged(run).detail) == (not detail, detail)


def test_an_attack_that_breaks_did_not_hold() -> None:
    found = judged(raises(ValueError("a cell: CANARY-4711")))
    assert not found.held
    assert found.detail.startswith("not shown: ValueError at ")
    assert "CANARY" not in found.detail


def test_another_refusal_than_the_defence_s_does_not_count() -> None:
    def refuse() -> None:
        raise ProtocolError("protocol.late", "")

    refuses("protocol.late", refuse)
    with pytest.raises(DidNotHoldError, match=r"by protocol\.late, not by protocol\.manifest"):
        refuses("protocol.manifest", refuse)
    with pytest.raises(DidNotHoldError, match="it was not refused"):
        refuses("protocol.manifest", nothing)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Check that no file below *folder* is changed but the locks, which are empty."""

    def state() -> dict[Path, bytes]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path: path.read_bytes() for path in files}

    before = state()
    yield
    assert state() == before


def test_the_verb_reports_rows_and_changes_nothing_of_the_site(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attacks stand for all: each is carried out above."""
    few = (BY_NAME["unapproved"], BY_NAME["edited log"])
    run = red_team.run
    monkeypatch.setattr(red_team, "run", lambda real: run(real, few))
    monkeypatch.setattr(AuditLog, "verify", lambda self: None)
    with unchanged(home.folder):
        said = CliRunner().invoke(
            app, ["--red-team", "--offline", "--home", str(home.folder), "--format", "json"]
        )
    answer = json.loads(said.stdout.splitlines()[-1])
    found = answer["data"]["red_team"]
    assert {name: found[name] for name in ("held", "tried", "rows_held", "rows_tried")} == {
        "held": 1, "tried": 2, "rows_held": 1, "rows_tried": 2
    }  # fmt: skip
    assert "edited log" in answer["error"]["message"]
    assert said.exit_code == 1
