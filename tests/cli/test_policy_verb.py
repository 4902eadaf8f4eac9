"""`plasmid policy`: whether a policy is sound, and what it answers to a recipe before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plasmid.cli.verbs.policy import app
from plasmid.gateway.members.projects import Projects
from support.federation.approving import add_people, write_policy
from support.federation.attacks import BUDGET
from support.federation.in_memory import project_of, signed_by
from support.federation.officer import Office, call

RECIPE = "tcr-covid"
PEOPLE = {"approvers": {"people": ["ann", "bob"], "quorum": {"approved": 2}}}


class Desk(Office):
    """The owner's end: both verbs of ``plasmid policy`` on one site."""

    def call(self, *arguments: Any, text: bool = False) -> tuple[int, Any]:
        return call(app, *arguments, "--home", self.home.folder, text=text)

    def ok(self, *arguments: Any) -> dict[str, Any]:
        status, answer = self.call(*arguments)
        assert (status, answer["status"]) == (0, "ok"), answer
        return dict(answer["data"])

    def fails(self, code: str, *arguments: Any) -> dict[str, Any]:
        """Check that a verb fails with *code*; return its whole answer."""
        status, answer = self.call(*arguments)
        assert (status, answer["error"]["code"]) == (1, code), answer
        return dict(answer)

    def write(self, *rules: Any, **sections: Any) -> None:
        write_policy(self.federation, "alpha", rules, **sections)

    def candidate(self, text: str) -> Path:
        """Write a policy that is not in force."""
        path = self.federation.root / "candidate.yaml"
        path.write_text(text)
        return path


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "nobody's"))
    return Desk(tmp_path / "sites")


# -- check -----------------------------------------------------------------------------------------


def test_a_sound_policy_is_told_in_words(desk: Desk) -> None:
    add_people(desk.federation)
    require = {"max_rounds": 40, "hours": {"zone": "UTC", "days": ["mon"], "opens": "08:00"}}
    desk.write("a" * 64, PEOPLE | {"projects": ["trial"], "purposes": ["research"]}, require=require)
    status, said = desk.call("check", text=True)
    assert status == 0
    assert said.replace("\n", " ").startswith(f"{desk.home.policy}: the policy is sound")
    for line in (
        "  1. allows 1 digest(s)\n",
        "  2. allows what ann, bob sign (2 x approved); projects trial; purposes research\n",
        "  requires protect: masked\n",
        "  requires max_rounds: 40\n",
        "  requires hours: mon from 08:00 to 00:00 (UTC)\n",
        "  gives the population default epsilon 8, delta 1e-05 for one record\n",
    ):
        assert line in said
    assert "warning" not in said
    answer = desk.ok("check")
    assert answer["policy"]["require"]["max_rounds"] == 40
    assert (answer["file"], answer["warnings"]) == (str(desk.home.policy), [])


def test_what_parses_and_may_not_be_meant_is_warned_of(desk: Desk) -> None:
    desk.write(PEOPLE, require={"protect": "none"}, budgets={"ward": BUDGET})
    assert desk.ok("check")["warnings"] == [
        "require.protect: none lets contributions leave in the clear",
        "no record of the approver ann",
        "no record of the approver bob",
        "no budget for this site's population default",
    ]
    assert "warning: no record of the approver ann" in desk.call("check", text=True)[1]


def test_an_empty_policy_allows_nothing_and_says_so(desk: Desk) -> None:
    desk.home.policy.write_text("")
    assert "It allows nothing." in desk.call("check", text=True)[1]


def test_a_policy_that_does_not_parse_is_told_with_file_line_and_suggestion(desk: Desk) -> None:
    desk.home.policy.write_text("allow: []\nrequire:\n  max_round: 3\n  min_sites: 2\nbudget: {}\n")
    error = desk.fails("policy.invalid", "check")["error"]
    assert error["message"].splitlines() == [
        f"{desk.home.policy}:3: require.max_round: unknown key (did you mean 'max_rounds'?)",
        f"{desk.home.policy}:4: require.min_sites: should be greater than or equal to 3, not 2",
        f"{desk.home.policy}:5: budget: unknown key (did you mean 'budgets'?)",
    ]
    assert error["hint"] == "Correct the lines named above."
    assert desk.fails("policy.invalid", "explain", RECIPE)["error"] == error


def test_without_a_policy_nothing_runs(desk: Desk) -> None:
    desk.home.policy.unlink()
    for verb in (["check"], ["check", RECIPE], ["explain", RECIPE]):
        assert "so nothing runs" in desk.fails("policy.absent", *verb)["error"]["message"]


def test_another_policy_is_looked_at_before_it_is_in_force(desk: Desk) -> None:
    digest = desk.fails("policy.digest_not_allowed", "explain", RECIPE, "--file", desk.candidate(""))
    path = desk.candidate(f"allow: [{digest['data']['digest']}]\n")
    assert desk.ok("check", RECIPE, "--file", path)["accepted"]
    assert desk.ok("explain", RECIPE, "--file", path)["accepted"]
    assert desk.ok("check", "--file", path)["file"] == str(path)
    assert json.loads(desk.home.policy.read_text())["allow"] != [digest]  # control: not in force


def test_a_file_is_checked_without_a_site(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("allow: []\n")
    status, answer = call(app, "check", "--file", path, "--home", tmp_path / "nowhere")
    assert (status, answer["data"]["warnings"]) == (0, [])
    status, answer = call(app, "check", "--home", tmp_path / "nowhere")
    assert (status, answer["error"]["code"]) == (1, "usage.no_site")
    status, answer = call(app, "explain", RECIPE, "--file", path, "--home", tmp_path / "nowhere")
    assert (status, answer["error"]["code"]) == (1, "usage.no_site")


# -- a recipe --------------------------------------------------------------------------------------


def test_a_refusal_names_each_rule_and_the_value_that_it_would_accept(desk: Desk) -> None:
    require = {"max_rounds": 2, "max_steps": 1, "max_rank": 2, "unit": "record", "min_sites": 4}
    desk.write("a" * 64, require=require)
    for verb in ("check", "explain"):
        answer = desk.fails("policy.digest_not_allowed", verb, RECIPE)
        digest = answer["data"]["digest"]
        assert answer["error"]["message"].splitlines() == [
            f"allow: the digest is {digest}, the policy accepts {'a' * 64}.",
            "min_sites: the document says min_sites: 3, the policy accepts 4 or more.",
            "unit: the document says unit: none, the policy accepts record or stronger.",
            "max_rounds: the document says rounds: 50, the policy accepts up to 2.",
            "max_steps: the document says steps: 3, the policy accepts up to 1.",
            "max_rank: the document says rank: 8, the policy accepts up to 2.",
        ]
        assert not answer["data"]["accepted"]
    status, said = desk.call("explain", RECIPE, text=True)
    assert status == 1
    assert "  REFUSES  max_rounds: the document says rounds: 50; accepted is up to 2\n" in said
    assert "  accepts  protect: the document says protect: masked; accepted is protect: masked\n" in said


def test_a_recipe_that_meets_every_line_may_run(desk: Desk) -> None:
    digest = desk.fails("policy.digest_not_allowed", "explain", RECIPE, "--file", desk.candidate(""))
    desk.write(digest["data"]["digest"], require={"max_rounds": 50})
    told = "the policy accepts what could be looked at here; the rest is looked at when a run begins."
    assert f"{RECIPE}: {told}" in " ".join(desk.call("check", RECIPE, text=True)[1].split())
    status, said = desk.call("explain", RECIPE, text=True)  # there are no rows for it here
    assert (status, told.capitalize() in " ".join(said.split())) == (0, True)
    found = desk.ok("explain", RECIPE)
    assert found["approvals"] is None
    assert [one["rule"] for one in found["rules"]] == [
        *("recipes", "protect", "min_sites", "min_organisations", "unit", "max_rounds", "isolation"),
    ]
    other = desk.fails("policy.digest_not_allowed", "explain", RECIPE, "--set", "federation.rounds=51")
    assert {one["code"] for one in other["data"]["rules"] if not one["accepted"]} == {
        "policy.digest_not_allowed",
        "policy.rounds",
    }
    assert desk.fails("policy.digest_not_allowed", "check", RECIPE, "--seed", "9")["data"]["digest"] not in (
        digest["data"]["digest"],
        other["data"]["digest"],
    )


def test_what_waits_is_explained_by_its_digest_with_its_approvals(desk: Desk) -> None:
    digest = desk.ask()
    found = desk.ok("explain", digest[:12])
    assert (found["name"], found["digest"], found["approvals"]) == ("ages", digest, {"have": 0, "need": 2})
    assert found["project"] == desk.federation.project.digest()
    assert desk.call("explain", digest, text=True)[1].splitlines()[-1] == (
        "The policy accepts it, 0 of 2 approvals (still needed: 2 x approved) are there: "
        "a run of it waits for the rest."
    )
    assert "waits for the rest" in desk.call("check", digest, text=True)[1].replace("\n", " ")


def test_the_site_s_own_figures_count_too(desk: Desk) -> None:
    digest = desk.ask()
    require = {"max_bytes_out": 100, "min_cohort": 10**6, "min_organisations": 5, "max_epsilon": 0.5}
    desk.write(PEOPLE, require=require, budgets={"default": BUDGET | {"epsilon": 0.25}})
    answer = desk.fails("policy.min_organisations", "explain", digest)
    refused = {one["rule"]: one for one in answer["data"]["rules"] if not one["accepted"]}
    assert set(refused) == {"max_epsilon", "max_bytes_out", "min_cohort", "min_organisations", "budgets"}
    assert refused["min_cohort"]["given"] == "the view's public_size is 1000"
    assert refused["max_bytes_out"]["given"] == "the run may send 384 bytes"
    assert refused["min_organisations"]["given"] == ("the sum would be over 4 confirmed organisations")
    assert "epsilon 0.25 of 0.25" in refused["budgets"]["given"]
    assert answer["data"]["approvals"] is None  # nobody is asked to sign what is refused


def test_lines_that_cannot_be_looked_at_here_are_named(desk: Desk) -> None:
    digest = desk.ask()
    (desk.home.folder / "data" / "table.csv").unlink()
    desk.write(PEOPLE, require={"min_cohort": 5})
    assert desk.ok("explain", digest)["unknown"].endswith("[data.absent]")
    said = " ".join(desk.call("explain", digest, text=True)[1].split())
    assert "not looked at: min_cohort, disclosure.max_parameters_share, population" in said
    assert "The policy accepts what could be looked at here; " in said


def test_the_project_is_the_one_that_this_site_has_signed(desk: Desk) -> None:
    federation = desk.federation
    desk.write(PEOPLE | {"projects": ["second"]})
    assert "policy accepts second" in desk.fails("policy.project", "explain", RECIPE)["error"]["message"]
    organisations = {site: federation.organisation(site) for site in federation.sites}
    second = project_of(federation.identities, organisations, federation.requester, name="second")
    projects = Projects(desk.home.projects, name="alpha", key=federation.identities["alpha"].public)
    projects.keep(signed_by(second, federation.identities))
    error = desk.fails("usage.project", "explain", RECIPE)["error"]
    assert error["message"] == "this site has signed several projects."
    assert f"second ({second.digest()})" in error["hint"]
    for name in ("second", second.digest()):
        assert desk.ok("explain", RECIPE, "--project", name)["project"] == second.digest()
    desk.fails("usage.project", "check", RECIPE, "--project", "third")


def test_a_site_that_has_signed_no_project_is_told_that_approvals_need_one(desk: Desk) -> None:
    for path in desk.home.projects.iterdir():
        path.unlink()
    message = desk.fails("policy.project", "explain", RECIPE)["error"]["message"]
    assert message == "projects: the run is of no project, the policy accepts any project."


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        ("tcr-covd", "recipe.unknown"),
        ("f" * 12, "usage.no_approval"),
        ("no/such/recipe.yaml", "recipe.unknown"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "explain"])
def test_a_recipe_that_is_none(desk: Desk, verb: str, recipe: str, code: str) -> None:
    desk.fails(code, verb, recipe)


def test_a_question_leaves_no_trace(desk: Desk) -> None:
    digest = desk.ask()
    before = {path: path.read_bytes() for path in desk.home.folder.rglob("*") if path.is_file()}
    desk.ok("check")
    desk.ok("check", digest)
    desk.ok("explain", digest)
    desk.ok("explain", RECIPE)
    after = {path: path.read_bytes() for path in desk.home.folder.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {
        desk.home.folder / name
        for name in ("ledger.jsonl.lock", "reader.log", "data.key")  # the view was opened for its figures
    }
