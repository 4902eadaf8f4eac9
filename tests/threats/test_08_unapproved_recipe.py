"""Row 8. Attack: an edited or unapproved recipe: one byte, a comment, a pin.

Must hold: digest mismatch; a revoked approver is refused; an approval for view X does not open Y.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.members.projects import Projects
from plasmid.protocol.envelope import Envelope
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admission
from support.federation.approving import SECRET, add_people, allow_approved, revoke, sign
from support.federation.attacks import BUDGET, FOUR, as_csv, count_document, never, private, refusal
from support.federation.bundle_recipes import ages, bundle_recipe
from support.federation.in_memory import Federation, document_of, project_of, signed_by
from support.tiny.tiny_task import tiny_recipe, tiny_table

NAMES = ("ann", "bob")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """alpha's ann and bob have approved the federation's document."""
    made = private(tmp_path)
    allow_approved(made)
    approvals = add_people(made)
    assert made.admit("alpha").pending is not None
    case = approvals.find(made.digest)
    for name in NAMES:
        sign(approvals, case, name)
    return made


def approvals_of(federation: Federation) -> Approvals:
    return federation.gateways["alpha"].approvals


def asked(federation: Federation, **changes: Any) -> Admission:
    return federation.gateways["alpha"].answer(federation.admitting(**changes))


def awaits(said: Admission) -> bool:
    """Whether nothing of what was approved counts."""
    return not said.accepted and said.pending is not None and said.pending.have == 0


def test_control_what_was_approved_runs(federation: Federation) -> None:
    assert asked(federation).accepted


def test_control_again_and_after_a_restart(federation: Federation) -> None:
    federation.restart("alpha")
    for label in ("one", "two"):
        federation.new_run(label)
        assert asked(federation).accepted


@pytest.mark.promise("policy-decides")
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"bounds": (0.0, 120.00000000000001)},
        {"max_rows": 1001},
        {"missing_markers": ("?",)},
        {"name": "ages2"},
    ],
)
def test_one_value_is_another_recipe(federation: Federation, change: dict[str, Any]) -> None:
    values, digest = document_of(count_document().model_copy(update=change))
    assert digest != federation.digest
    assert awaits(asked(federation, document=values, digest=digest))


@pytest.mark.promise("policy-decides")
def test_an_edited_document_under_the_approved_digest_is_refused(federation: Federation) -> None:
    values, _ = document_of(count_document().model_copy(update={"seed": 1}))
    assert asked(federation, document=values).code == "protocol.digest"


def rename_population(federation: Federation) -> None:
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"population": "volunteers"}))


def other_file(federation: Federation) -> None:
    (federation.home("alpha").folder / "data" / "ages.csv").write_text("age\n31\n")


def other_size(federation: Federation) -> None:
    home = federation.home("alpha")
    home.write_config(home.config().model_copy(update={"public_size": 900}))


@pytest.mark.promise("approvals-bound")
@pytest.mark.parametrize("change", [rename_population, other_file, other_size])
def test_an_approval_of_one_view_opens_no_other(
    federation: Federation, change: Callable[[Federation], None]
) -> None:
    change(federation)
    assert awaits(asked(federation))


def test_a_view_that_changes_under_a_run_is_not_shown_to_it(federation: Federation) -> None:
    """The run goes on with the rows that it was admitted to; the next one is asked anew."""
    federation.budgets = {"default": BUDGET, "volunteers": BUDGET}
    assert asked(federation).accepted
    admitted = federation.gateways["alpha"].run(federation.run)
    rename_population(federation)
    assert admitted.opened is not None
    federation.new_run("the next one")
    assert awaits(asked(federation))


def in_another_project(federation: Federation, **changes: Any) -> Admission:
    """Have every member sign a changed project, and ask in it."""
    organisations = {site: federation.organisation(site) for site in federation.sites}
    federation.project = project_of(federation.identities, organisations, federation.requester, **changes)
    federation.envelope = signed_by(federation.project, federation.identities)
    own = federation.identities["alpha"]
    Projects(federation.home("alpha").projects, name="alpha", key=own.public).keep(federation.envelope)
    federation.new_run("in another project")
    return asked(federation)


@pytest.mark.promise("approvals-bound")
@pytest.mark.parametrize(
    "change", [{"purpose": "marketing"}, {"last_day": "2099-12-30"}, {"name": "trial-2"}]
)
def test_an_approval_in_one_project_opens_no_other(federation: Federation, change: dict[str, Any]) -> None:
    assert awaits(in_another_project(federation, **change))


@pytest.mark.promise("approvals-bound")
def test_an_approval_for_one_audience_opens_no_other(federation: Federation) -> None:
    """Somebody else is to receive the result."""
    before = federation.project.audience
    (person,) = federation.project.people
    eve = person.model_copy(
        update={"name": "eve", "key": Identity.generate("eve").public, "roles": ["receive"]}
    )
    said = in_another_project(federation, people=[person, eve])
    assert federation.project.audience != before
    assert awaits(said)


@pytest.mark.promise("approvals-bound")
def test_a_revoked_approval_opens_nothing(federation: Federation) -> None:
    approvals = approvals_of(federation)
    said = approvals.all_signatures()[0]
    revoke(approvals, said, "bob")
    pending = asked(federation).pending
    assert pending is not None
    assert (pending.have, pending.need) == (1, 2)


def test_a_revoked_approver_opens_nothing(federation: Federation) -> None:
    allow_approved(federation, people=["bob", "cem"])
    pending = asked(federation).pending
    assert pending is not None
    assert (pending.have, pending.need) == (1, 2)


def test_a_revoked_approver_ends_the_run_that_is_under_way(federation: Federation) -> None:
    federation.set_up()
    allow_approved(federation, people=["bob", "cem"])
    with refusal("policy.awaiting_approval"):
        federation.gateways["alpha"].contribute(federation.manifest(), never)


@pytest.mark.parametrize(
    "field", ["recipe", "view", "project", "audience", "site", "signer", "meaning", "reason", "expires"]
)
def test_an_approval_with_one_field_changed_is_nobody_s(federation: Federation, field: str) -> None:
    """Whoever can write to the folder edits an approval, and keeps its signatures."""
    approvals = approvals_of(federation)
    recipe = federation.digest
    for digest, envelope in list(approvals.files.approvals(recipe)):
        (said,) = [one for one in approvals.all_signatures() if one.digest == digest]
        values = {
            "signer": "cem",
            "meaning": "reviewed",
            "reason": "other",
            "expires": "2999-01-01T00:00:00Z",
        }
        if field in values:
            edited = said.approval.model_copy(update={field: values[field]})
        else:
            value = "beta" if field == "site" else "0" * 64
            subject = said.approval.subject.model_copy(update={field: value})
            edited = said.approval.model_copy(update={"subject": subject})
        forged = Envelope.of(edited).model_copy(update={"signatures": envelope.signatures})
        (federation.home("alpha").approvals / recipe / f"{digest}.approval.json").unlink()
        approvals.files.keep_approval(recipe, edited.digest(), forged)
    assert approvals.all_signatures() == []
    assert awaits(asked(federation))


def test_an_approval_of_another_site_opens_nothing(federation: Federation) -> None:
    """beta's owner has people of the same names and keys, and alpha's file is copied there."""
    allow_approved(federation, "beta")
    ours, theirs = federation.home("alpha"), federation.home("beta")
    for name in ("people", "approvals"):
        for path in (ours.folder / name).rglob("*.json"):
            target = theirs.folder / path.relative_to(ours.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    said = federation.gateways["beta"].answer(federation.admitting())
    assert awaits(said)


def test_a_key_that_the_owner_does_not_know_opens_nothing(federation: Federation) -> None:
    approvals = approvals_of(federation)
    (federation.home("alpha").people / "ann.json").unlink()
    (federation.home("alpha").people / "ann.keys.json").unlink()
    approvals.add_person(
        "ann", full_name="Ann Other", role="officer", passphrase=lambda: SECRET.format("other")
    )
    pending = asked(federation).pending
    assert pending is not None
    assert pending.have == 1


# -- code and pins -----------------------------------------------------------------------------------

CODE = "def per_record(state, row, settings): return [1.0, 0.0, 0.0]\n"


def approved(root: Path, document: Any, table: str) -> Federation:
    """Return sites of which alpha's ann and bob have approved *document*."""
    made = Federation(root, document=document, sites=FOUR, tables=dict.fromkeys(FOUR, table))
    allow_approved(made)
    approvals = add_people(made)
    assert made.admit("alpha").pending is not None
    for name in NAMES:
        sign(approvals, approvals.find(made.digest), name)
    assert made.admit("alpha").accepted  # control
    return made


def refused_as_another(federation: Federation, changed: Any) -> None:
    """Check that *changed* is refused under the approved digest, and waits for approvals under its own."""
    values, digest = document_of(changed)
    assert digest != federation.digest
    federation.new_run(digest)
    assert asked(federation, document=values).code == "protocol.digest"
    assert awaits(asked(federation, document=values, digest=digest))


@pytest.mark.promise("policy-decides")
@pytest.mark.parametrize(
    "code",
    [
        CODE + "# a comment\n",
        CODE + "\n",
        CODE.replace("[1.0", "[1.1"),
        CODE.replace(", settings)", ",settings)"),
    ],
    ids=["a comment", "an empty line", "one digit", "one space less"],
)
def test_a_byte_of_the_code_is_another_recipe(tmp_path: Path, code: str) -> None:
    federation = approved(tmp_path, bundle_recipe(CODE), as_csv(ages(1.0, 2.0)))
    refused_as_another(federation, bundle_recipe(code))


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("pin", ["base", "revision", "digest"])
def test_another_pin_of_the_base_model_is_another_recipe(
    tmp_path: Path, tiny: dict[str, BaseModel], pin: str
) -> None:
    recipe = tiny_recipe(tiny["bert"])
    federation = approved(tmp_path, recipe, as_csv(tiny_table(12)))
    values = {"base": "tiny-esm", "revision": "another", "digest": "0" * 64}
    refused_as_another(
        federation, recipe.model_copy(update={"model": recipe.model.model_copy(update={pin: values[pin]})})
    )
