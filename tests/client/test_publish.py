"""Publishing: where to, when not, and what the hub is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.test_launch import Notes
from plasmid.bases.store import BaseModel
from plasmid.client.publish import publish, target, unmet
from plasmid.client.run import Run
from plasmid.exchange import sharing
from plasmid.experiments.table import Table
from plasmid.hubclient.client import Hub
from support.federation.attacks import refusal
from support.federation.release_world import World

OURS = "https://hub.example"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of this test's own, and a hub of ours."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", OURS)
    return tmp_path


def test_nothing_is_published_that_nobody_asked_for(here: Path) -> None:
    assert target(None, "tiny", public_hub=False, adapter=True) is None


def test_a_run_publishes_by_itself_where_the_settings_name_an_owner(here: Path) -> None:
    (here / "publish.yaml").write_text("owner: lab\n")
    assert target(None, "tiny", public_hub=False, adapter=True) == "lab/tiny"
    assert target("other/name", "tiny", public_hub=False, adapter=True) == "other/name"
    (here / "publish.yaml").write_text("ower: lab\n")
    with refusal("recipe.invalid"):
        target(None, "tiny", public_hub=False, adapter=True)


@pytest.mark.parametrize(
    "endpoint", [None, "", "https://huggingface.co", "https://HuggingFace.co/", "https://hf.co"]
)
def test_the_public_hub_is_never_meant_by_a_variable_or_its_absence(
    here: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str | None
) -> None:
    monkeypatch.delenv("HF_ENDPOINT")
    if endpoint is not None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with refusal("hub.no_endpoint"):
        target("lab/tiny", "tiny", public_hub=False, adapter=True)
    assert target("lab/tiny", "tiny", public_hub=True, adapter=True) == "lab/tiny"


def test_what_cannot_be_a_target_is_refused_before_the_run(here: Path) -> None:
    with refusal("hub.name"):
        target("../lab", "tiny", public_hub=False, adapter=True)
    with refusal("usage.publish"):
        target(None, "tiny", public_hub=True, adapter=True)


def test_what_makes_no_adapter_is_published_nowhere_and_says_so_where_it_was_asked(here: Path) -> None:
    (here / "publish.yaml").write_text("owner: lab\n", encoding="utf-8")
    assert target(None, "trees", public_hub=False, adapter=False) is None
    with refusal("usage.publish"):
        target("lab/trees", "trees", public_hub=False, adapter=False)


# -- gates -----------------------------------------------------------------------------------------


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have gone to a hub."""
    seen: list[tuple[Any, ...]] = []

    def push(hub: Hub, folder: Path, repo: str, **how: Any) -> tuple[str, None]:
        seen.append((hub.endpoint, folder, repo, how))
        return "c" * 40, None

    monkeypatch.setattr(sharing, "push", push)
    monkeypatch.setenv("HF_ENDPOINT", OURS)
    return seen


def released(world: World, folder: Path, *, value: float | None = 0.75, least: float | None = None) -> Run:
    run = world.fetch(folder)
    run.document["release"]["min_metric"] = least
    run.table = Table(metric="auc", federated=value)
    return run


@pytest.mark.usefixtures("at_home")
def test_what_passes_is_published_as_a_private_repository(
    tiny: dict[str, BaseModel], tmp_path: Path, pushed: list[tuple[Any, ...]]
) -> None:
    run = released(World(tiny["bert"]), tmp_path / "a", least=0.75)
    answer = Notes()
    publish(run, "lab/tiny", public_hub=False, answer=answer)
    how = {"private": True, "message": f"run {run.id}"}
    assert pushed == [(OURS, tmp_path / "a", "lab/tiny", how)]
    assert answer.data["published"] == {"repo": "lab/tiny", "commit": "c" * 40, "endpoint": OURS}
    assert (answer.data["not_published"], answer.lines) == ([], [f"Published: {OURS}/lab/tiny at {'c' * 12}"])


@pytest.mark.usefixtures("at_home")
def test_what_does_not_pass_is_not_published_and_every_reason_is_said(
    tiny: dict[str, BaseModel], tmp_path: Path, pushed: list[tuple[Any, ...]]
) -> None:
    run = released(World(tiny["bert"], words=("alpha", "beta")), tmp_path / "a", least=0.8)
    run._final["result"]["audit"] = {"verdict": "failed"}  # type: ignore[index]
    answer = Notes()
    publish(run, "lab/tiny", public_hub=False, answer=answer)
    reasons = [
        "2 participants have countersigned, federation.min_sites is 3.",
        "The canary audit failed.",
        "auc on unseen data is 0.750, release.min_metric is 0.8.",
    ]
    assert (pushed, answer.data["published"], answer.data["not_published"]) == ([], None, reasons)
    assert answer.lines[0] == "[bold red]not published[/bold red] to lab/tiny:"


@pytest.mark.usefixtures("at_home")
def test_what_was_not_measured_does_not_pass(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    assert unmet(released(World(tiny["bert"]), tmp_path / "a", value=None)) == []
    run = released(World(tiny["bert"]), tmp_path / "b", value=None, least=0.5)
    assert unmet(run) == ["release.min_metric is 0.5, and nothing was measured: give --eval FILE."]
