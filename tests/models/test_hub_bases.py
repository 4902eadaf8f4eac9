"""Base models through a real hub: pushed, fetched, resumed, and refused where they are not what is meant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from plasmid.bases import catalogue
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.core.errors import HubError, ModelError
from plasmid.hubclient.bases import fetch_base, import_repo, push_base
from plasmid.hubclient.client import Hub, configured_hub, find_hub
from support.hub.hub_server import LiveHub, served
from support.tiny.tiny_models import tiny_bert, tiny_esm


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    with served(tmp_path_factory.mktemp("hub")) as hub:
        hub.user("plasmid")
        yield hub


@pytest.fixture
def client(live: LiveHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub as a client sees it who may write, with an empty store."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", live.url)
    monkeypatch.setenv("HF_TOKEN", live.tokens["plasmid"])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return find_hub(token=live.tokens["plasmid"])


def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go on with another empty store."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "other"))
    return tmp_path / "other"


def _pushed(client: Hub, tmp_path: Path, name: str, *, seed: int = 0) -> BaseModel:
    base = import_folder(tiny_bert(tmp_path / name, seed=seed), model_id=name)
    push_base(client, base, f"plasmid/{name}", licence="MIT")
    return base


def test_a_site_without_the_model_gets_it_from_the_hub_by_revision_or_digest(
    client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _pushed(client, tmp_path, "first")
    home = _elsewhere(tmp_path, monkeypatch)
    with pytest.raises(ModelError) as by_name:
        ensure_model("first")
    assert by_name.value.code == "model.unknown"
    found = ensure_model("first", revision=base.revision, digest=base.digest)
    assert (found.digest, found.revision, found.entry.licence) == (base.digest, base.revision, "MIT")
    assert found.path.is_relative_to(home)
    assert isinstance(found.entry.source, catalogue.HubSource)
    assert found.entry.source.repo == "plasmid/first"
    assert catalogue.get("first") == found.entry
    assert list((home / "models" / ".fetched").iterdir()) == []


def test_a_hub_with_other_weights_is_refused_and_nothing_is_kept(
    client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _pushed(client, tmp_path, "second")
    home = _elsewhere(tmp_path, monkeypatch)
    with pytest.raises(ModelError) as other:
        ensure_model("second", revision=base.revision, digest="0" * 64)
    assert other.value.code == "model.digest_differs"
    assert base.digest[:16] in other.value.message
    assert not (home / "models" / "second").exists()
    with pytest.raises(HubError) as absent:
        ensure_model("third", revision="abcdef123456")
    assert absent.value.code == "hub.repo_missing"
    with pytest.raises(HubError) as revision:
        fetch_base(client, "plasmid/second", revision="nothing")
    assert revision.value.code == "hub.revision_missing"


def test_a_name_of_the_catalogue_has_the_digest_that_the_catalogue_pins(
    client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub says that another model is antiberty."""
    base = import_folder(tiny_bert(tmp_path / "x"), model_id="liar")
    record = json.loads((base.path / "plasmid.json").read_bytes())
    record["entry"]["id"] = "antiberty"
    files = {path.name: path.read_bytes() for path in base.path.iterdir()}
    files["plasmid.json"] = json.dumps(record).encode()
    files["README.md"] = b"---\nlicense: mit\n---\n"
    _upload(client, "plasmid/liar", files)
    with pytest.raises(ModelError) as caught:
        fetch_base(client, "plasmid/liar", revision=None)
    assert caught.value.code == "model.digest_differs"
    assert catalogue.get("antiberty").digest[:16] in caught.value.message


def _upload(client: Hub, repo: str, files: dict[str, bytes]) -> None:
    from huggingface_hub import CommitOperationAdd

    client.api().create_repo(repo, exist_ok=True)
    adds = [CommitOperationAdd(name, content) for name, content in files.items()]
    client.api().create_commit(repo, adds, commit_message="put")


def test_a_broken_download_goes_on_where_it_broke(
    client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _pushed(client, tmp_path, "fourth")
    home = _elsewhere(tmp_path, monkeypatch)
    commit = client.info("plasmid/fourth").sha
    weights = (base.path / "model.safetensors").read_bytes()
    stage = home / "models" / ".fetched" / f"plasmid--fourth--{commit}"
    stage.mkdir(parents=True)
    (stage / "model.safetensors.partial").write_bytes(weights[:30_000])
    asked = []
    from huggingface_hub import file_download

    get = file_download.http_get

    def noted(url: str, stream: object, **options: object) -> None:
        asked.append((url.rsplit("/", 1)[1], options["resume_size"]))
        get(url, stream, **options)

    monkeypatch.setattr(file_download, "http_get", noted)
    assert fetch_base(client, "plasmid/fourth", revision=base.revision).digest == base.digest
    assert ("model.safetensors", 30_000) in asked
    # What arrived and is something else is thrown away, not built upon.
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "third"))
    stage = tmp_path / "third" / "models" / ".fetched" / f"plasmid--fourth--{commit}"
    stage.mkdir(parents=True)
    (stage / "model.safetensors.partial").write_bytes(b"\0" * 30_000)
    with pytest.raises(HubError) as broken:
        fetch_base(client, "plasmid/fourth", revision=base.revision)
    assert broken.value.code == "hub.broken_file"
    assert fetch_base(client, "plasmid/fourth", revision=base.revision).digest == base.digest


def test_a_stranger_s_repository_is_converted_without_its_code(client: Hub, tmp_path: Path) -> None:
    source = tiny_esm(tmp_path / "esm")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    files["README.md"] = b"---\nlicense: apache-2.0\n---\n# A model\n"
    _upload(client, "plasmid/strange", files)
    base = import_repo(client, "plasmid/strange", model_id="mine")
    assert base.digest == import_folder(source).digest
    assert base.entry.licence == "apache-2.0"
    commit = client.info("plasmid/strange").sha
    assert base.entry.title.endswith(f"from plasmid/strange at {commit[:12]}")
    _upload(
        client,
        "plasmid/none",
        {"README.md": b"---\nlicense: mit\n---\n", "config.json": files["config.json"]},
    )
    with pytest.raises(HubError) as caught:
        import_repo(client, "plasmid/none")
    assert caught.value.code == "hub.no_base"


def test_pushing_twice_is_one_revision_and_a_licence_is_needed(client: Hub, tmp_path: Path) -> None:
    base = import_folder(tiny_bert(tmp_path / "fifth"), model_id="fifth")
    with pytest.raises(HubError) as unsaid:
        push_base(client, base, "plasmid/fifth")
    assert unsaid.value.code == "hub.no_licence"
    commit = push_base(client, base, "plasmid/fifth", licence="Apache-2.0")
    assert push_base(client, base, "plasmid/fifth", licence="Apache-2.0") == commit
    card = client.info("plasmid/fifth").card_data
    assert (card["license"], card["library_name"]) == ("apache-2.0", "transformers")
    held = {file.path: file for file in client.files("plasmid/fifth", commit)}
    assert set(held) == {"README.md", "plasmid.json", *(path.name for path in base.path.iterdir())}
    weights = (base.path / "model.safetensors").read_bytes()
    assert held["model.safetensors"].sha256 == hashlib.sha256(weights).hexdigest()


def test_which_hub_and_whose_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for public in ("https://huggingface.co", "https://hf.co/", ""):
        monkeypatch.setenv("HF_ENDPOINT", public)
        assert configured_hub() is None
        with pytest.raises(HubError) as caught:
            find_hub()
        assert caught.value.code == "hub.no_endpoint"
    monkeypatch.setenv("HF_ENDPOINT", "http://ours:1/")
    assert find_hub() == Hub("http://ours:1", None)
    assert find_hub("http://ours:1") == Hub("http://ours:1", None)
    assert find_hub("https://huggingface.co").token is False
    assert find_hub("https://huggingface.co", token="theirs").token == "theirs"
    with pytest.raises(HubError) as strange:
        find_hub("ours")
    assert strange.value.code == "hub.url"
    with pytest.raises(HubError) as nowhere:
        Hub("http://127.0.0.1:9").info("a/b")
    assert nowhere.value.code == "hub.unreachable"
