"""Adapters and accounts of a hub: what is fetched, with whose token, and what a refusal says."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from plasmid.adapters.artifact import read_adapter
from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import Caller, HubAccess
from plasmid.endpoint.problems import Problem
from plasmid.endpoint.sources import MAX_FILE_BYTES, Sources
from plasmid.release.folder import Trust
from support.federation.release_world import World
from support.tiny.served import write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ANA, BOB = Caller("ana", "hf_ana", "1"), Caller("bob", "hf_bob", "2")


class FakeHub:
    """``HfApi`` of a hub with one adapter, which is ana's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, int | None] = {one.name: one.stat().st_size for one in folder.iterdir()}
        self.asked: list[tuple[str, str | None, Any]] = []
        self.error: Exception | None = None
        self.folders: list[Path] = []
        self.retired: str | None = None

    def model_info(self, repo: str, *, revision: str | None, token: Any, **_: Any) -> Any:
        self.asked.append((repo, revision, token))
        if self.error is not None:
            raise self.error
        if token != "hf_ana":
            raise _refusal(RepositoryNotFoundError, 404, "Repository not found")
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in self.sizes.items()]
        return SimpleNamespace(sha=COMMIT, siblings=siblings, retired=self.retired)

    def snapshot_download(
        self, repo: str, *, revision: str, local_dir: str, allow_patterns: list[str], **_: Any
    ) -> str:
        assert (repo, revision) == ("team/x", COMMIT)
        for name in allow_patterns:
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, local_dir)
        self.folders.append(Path(local_dir))
        return local_dir


def _refusal(kind: type[HfHubHTTPError], status: int, said: str) -> HfHubHTTPError:
    request = httpx.Request("GET", "http://hub.test/api/models/team/x")
    return kind("no", response=httpx.Response(status, request=request), server_message=said)


@pytest.fixture
def hub(tiny: dict[str, BaseModel], tmp_path: Path) -> FakeHub:
    folder = write(tmp_path / "x", tiny["bert"], "small")
    (folder / "evil.py").write_text("print('no')")
    return FakeHub(folder)


def test_an_adapter_is_known_by_its_commit_and_its_files_do_not_stay(hub: FakeHub) -> None:
    sources = Sources({}, "http://hub.test", api=hub, unsigned=True)
    found = sources.find("team/x", ANA)
    assert found.key == f"team/x@{COMMIT}"
    with found.fetch() as folder:
        assert {one.name for one in folder.iterdir()} == {one.name for one in hub.folder.iterdir()} - {
            "evil.py"
        }
        assert read_adapter(folder).about.head.labels == ["no", "yes"]
    assert not hub.folders[0].exists()
    assert sources.find("team/x@v1", ANA).key == found.key
    sources.find("team/x", ANA)
    assert hub.asked == [("team/x", None, "hf_ana"), ("team/x", "v1", "hf_ana")]  # the third was remembered


def test_a_retired_adapter_is_served_with_the_reason(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    sources = Sources({}, "http://hub.test", api=hub)
    assert sources.warning(sources.find("team/x", ANA).key) == {}
    hub.retired = "a site withdrew"
    assert sources.warning(sources.find("team/x@v1", ANA).key) == {"retired": "a site withdrew"}
    sources.find("team/x@v2", ANA)
    told = [record.getMessage() for record in caplog.records if record.name == "plasmid.endpoint.sources"]
    assert told == [f"an adapter that is served was retired: commit {COMMIT[:12]}"]


# -- signatures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tiny: dict[str, BaseModel]) -> World:
    return World(tiny["bert"])


@pytest.fixture
def signed(world: World, model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub whose adapter a run has released."""
    monkeypatch.setenv("PLASMID_HOME", str(model_home))
    world.fetch(tmp_path / "released")
    return FakeHub(tmp_path / "released")


def pins(world: World, **changes: str) -> Trust:
    return Trust(
        coordinator=world.coordinator.public, sites={"alpha": world.identities["alpha"].public} | changes
    )


def loaded(sources: Sources) -> dict[str, str]:
    found = sources.find("team/x", ANA)
    with found.fetch():
        return sources.warning(found.key)


def refused(sources: Sources) -> Problem:
    with pytest.raises(Problem) as caught:
        loaded(sources)
    assert caught.value.status == 422
    assert caught.value.response().headers["content-type"] == "application/json"
    return caught.value


def test_whose_signatures_an_adapter_has_is_checked_when_it_is_fetched(signed: FakeHub, world: World) -> None:
    there = {one.name for one in signed.folder.iterdir()}
    assert set(MAX_FILE_BYTES) == there | {"calibration.json"}  # nothing is left to be "missing"
    assert loaded(Sources({}, "http://hub.test", api=signed, trust=pins(world))) == {"signatures": "pinned"}
    assert loaded(Sources({}, "http://hub.test", api=signed)) == {"signatures": "unpinned"}
    other = pins(world, alpha="0" * 64)
    problem = refused(Sources({}, "http://hub.test", api=signed, trust=other, unsigned=True))
    assert problem.code == "model.release_trust"
    assert "another key than you have pinned for alpha" in problem.message


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_changed_adapter_is_refused_whatever_the_operator_takes(
    signed: FakeHub, world: World, unsigned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    weights = signed.folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    problem = refused(Sources({}, "http://hub.test", api=signed, trust=pins(world), unsigned=unsigned))
    assert problem.code == "model.release_changed"
    assert "adapter_model.safetensors is not as it was released" in problem.message
    assert not signed.folders[0].exists()
    assert COMMIT[:12] in caplog.text
    assert "team/x" not in caplog.text


def test_an_unsigned_adapter_is_served_only_where_the_operator_says_so(hub: FakeHub, world: World) -> None:
    problem = refused(Sources({}, "http://hub.test", api=hub, trust=pins(world)))
    assert (problem.code, problem.param) == ("model.release_unsigned", "model")
    assert str(hub.folders[0]) not in problem.message
    taken = Sources({}, "http://hub.test", api=hub, trust=pins(world), unsigned=True)
    assert loaded(taken) == {"signatures": "none"}


def test_a_log_in_is_used_for_the_person_alone_who_logged_in(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_ana")
    nobody = Caller("anonymous")
    mine = Sources({}, "http://hub.test", api=hub, personal=True)
    assert mine.find("team/x", nobody).key == f"team/x@{COMMIT}"
    for sources in (
        Sources({}, "http://hub.test", api=hub),
        Sources({}, "http://elsewhere.test", api=hub, personal=True),
    ):
        with pytest.raises(Problem, match="Repository not found"):
            sources.find("team/x", nobody)
    assert [token for _, _, token in hub.asked] == ["hf_ana", False, False]


def test_who_may_not_read_it_may_not_use_it(hub: FakeHub) -> None:
    sources = Sources({}, "http://hub.test", api=hub)
    key = sources.find("team/x", ANA).key
    with pytest.raises(Problem) as caught:
        sources.find("team/x", BOB)
    assert (caught.value.status, caught.value.code) == (404, "adapter_not_found")
    assert "Repository not found" in caught.value.message
    assert (sources.may(key, ANA), sources.may(key, BOB)) == (True, False)


@pytest.mark.parametrize(
    ("error", "status", "code", "words"),
    [
        (
            _refusal(GatedRepoError, 403, "Accept the terms at http://hub.test/team/x"),
            403,
            "adapter_gated",
            "terms at",
        ),
        (_refusal(HfHubHTTPError, 403, "Not yours"), 403, "adapter_forbidden", "Not yours"),
        (_refusal(HfHubHTTPError, 500, ""), 502, "hub_unreachable", "500"),
        (httpx.ConnectError("refused"), 502, "hub_unreachable", "does not give"),
    ],
)
def test_what_the_hub_says_is_told(
    hub: FakeHub, error: Exception, status: int, code: str, words: str
) -> None:
    hub.error = error
    with pytest.raises(Problem) as caught:
        Sources({}, "http://hub.test", api=hub).find("team/x", ANA)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert words in caught.value.message


@pytest.mark.parametrize("name", ["../x", "team/../x", "/etc/x", "team/x/y", "a b/c", "team/x@../y", "x"])
def test_a_name_that_is_none_asks_nobody(hub: FakeHub, name: str) -> None:
    with pytest.raises(Problem) as caught:
        Sources({}, "http://hub.test", api=hub).find(name, ANA)
    assert caught.value.code == "adapter_not_found"
    assert hub.asked == []


def test_too_large_a_file_and_a_repository_without_an_adapter_are_not_fetched(hub: FakeHub) -> None:
    hub.sizes["head.json"] = 16 * 2**20 + 1
    with pytest.raises(Problem, match=r"head\.json of 'team/x' has 16777217 bytes, and may have 16777216"):
        Sources({}, "http://hub.test", api=hub).find("team/x", ANA)
    del hub.sizes["head.json"]
    with pytest.raises(Problem) as caught:
        Sources({}, "http://hub.test", api=hub).find("team/x", ANA)
    assert caught.value.code == "adapter_not_found"


def test_the_hub_knows_the_tokens_and_is_asked_once_a_minute() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["authorization"])
        if asked[-1] == "Bearer hf_down_down":
            return httpx.Response(500)
        good = asked[-1] == "Bearer hf_ana_ana"
        return httpx.Response(200, json={"name": "ana"}) if good else httpx.Response(401)

    async def scene() -> None:
        access = HubAccess("http://hub.test/", transport=httpx.MockTransport(answer))
        for _ in range(3):
            caller = await access.who("hf_ana_ana")
            assert caller is not None
            assert (caller.name, caller.hub_token) == ("ana", "hf_ana_ana")
            assert "hf_ana" not in caller.key
            assert await access.who("hf_nobodys") is None
        assert await access.who(None) is None
        assert await access.who("hf_\nnobodys") is None
        assert asked == ["Bearer hf_ana_ana", "Bearer hf_nobodys"]
        with pytest.raises(Problem) as caught:
            await access.who("hf_down_down")
        assert caught.value.status == 502
        await access.close()

    asyncio.run(scene())
