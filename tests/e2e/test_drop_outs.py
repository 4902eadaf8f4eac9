"""Sites that are killed and started again while a deployed federation computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plasmid.client.api import Coordinator
from plasmid.client.run import Run
from plasmid.core.errors import PlasmidError
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.protection import Limits
from plasmid.recipes.query import PingDocument
from support.federation.deployed import Deployment

pytestmark = pytest.mark.slow

SITES = ("alpha", "beta", "delta", "epsilon", "gamma")
ROUNDS = 150  # of three key epochs
DEADLINE_S = 240.0


def ping(rounds: int, **limits: Any) -> dict[str, Any]:
    return PingDocument(length=100, rounds=rounds, federation=Limits(**limits)).model_dump(mode="json")


DOCUMENTS = [ping(ROUNDS), ping(ROUNDS, min_sites=4), ping(20)]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Five sites without data."""
    root: Path = tmp_path_factory.mktemp("five")
    with Deployment(root, dict.fromkeys(SITES)) as made:
        made.allow([recipe_digest(document, "ping") for document in DOCUMENTS])
        made.start_sites()
        made.wait_online()
        yield made


@pytest.fixture
def coordinator(five: Deployment) -> Iterator[Coordinator]:
    """The researcher's connection; whatever was killed runs again afterwards."""
    client = five.client()
    yield client
    client.close()
    for site in SITES:
        if site not in five.processes:
            five.start_site(site)
    five.wait_online()


def until(run: Run, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(shown := run.show()):
        assert shown["state"] not in ("FAILED", "STOPPED", "INTERRUPTED"), shown["error"]
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)
    return shown


def log(run: Run) -> list[str]:
    return [line["text"] for line in run.log()]


def test_a_site_that_is_killed_in_a_round_is_done_without(five: Deployment, coordinator: Coordinator) -> None:
    run = coordinator.start(ping(20))
    until(run, lambda shown: shown["rounds_done"] >= 3)
    five.kill_site("beta")
    run.wait()
    result = run.result()
    others = [site for site in SITES if site != "beta"]
    assert result["participants"] == list(SITES)
    assert result["survivors"][0] == list(SITES)
    assert result["survivors"][-1] == others
    assert len(result["survivors"]) == 20
    assert any(text.startswith("beta dropped out") for text in log(run))
    assert result["epochs"] == [{"n": 5, "c": 1, "theta": 4, "m": 4}]


def test_a_site_that_is_started_again_comes_back_in_a_later_key_epoch(
    five: Deployment, coordinator: Coordinator
) -> None:
    run = coordinator.start(ping(ROUNDS))
    until(run, lambda shown: shown["rounds_done"] >= 3)
    five.kill_site("beta")
    five.start_site("beta")
    run.wait()
    result = run.result()
    assert result["survivors"][-1] == list(SITES)
    without = [index for index, survivors in enumerate(result["survivors"]) if "beta" not in survivors]
    assert without
    assert "beta is back" in log(run)
    assert [epoch["n"] for epoch in result["epochs"]][-1] == 5


def test_more_than_the_threshold_allows_end_the_run(five: Deployment, coordinator: Coordinator) -> None:
    run = coordinator.start(ping(ROUNDS, min_sites=4))
    until(run, lambda shown: shown["rounds_done"] >= 3)
    for site in ("beta", "gamma"):
        five.kill_site(site)
    with pytest.raises(PlasmidError) as caught:
        run.wait()
    # Before the others agreed to a sum a smaller key epoch would begin; after that the sum is lost.
    assert caught.value.code in ("recipe.too_few_sites", "run.sum_lost")
    what = ("3 sites accept, federation.min_sites is 4.", "4 must", "4 are needed")
    assert any(reason in caught.value.message for reason in what)
    for site in ("beta", "gamma"):
        assert f"\n  {site}: it has been silent for 20 s" in caught.value.message
    assert run.show()["state"] == "FAILED"
