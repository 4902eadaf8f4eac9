"""Which adapters are in memory, and which are never let in."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from plasmid.adapters.pool import AdapterPool, Fetch, at
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, ModelError
from plasmid.encoders.mixed import Loaded, MixedModel
from support.tiny.served import write


@pytest.fixture(scope="module")
def model(tiny: dict[str, BaseModel]) -> MixedModel:
    return MixedModel.load(tiny["bert"])


@pytest.fixture(scope="module")
def folders(tiny: dict[str, BaseModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    return {name: write(home / name, tiny["bert"], "small", seed=seed) for seed, name in enumerate("abcd")}


def test_the_least_recently_used_makes_room_and_pinned_ones_stay(
    model: MixedModel, folders: dict[str, Path]
) -> None:
    size = AdapterPool(model, capacity_bytes=2**30).get("a", at(folders["a"])).size_bytes
    pool = AdapterPool(model, capacity_bytes=3 * size)
    pool.get("a", at(folders["a"]), pin=True)
    for name in "bc":
        pool.get(name, at(folders[name]))
    assert pool.find("b") is not None
    first = pool.get("c", at(folders["c"]))
    pool.get("b", at(folders["b"]))
    pool.get("d", at(folders["d"]))
    assert list(pool.held()) == ["a", "b", "d"]
    assert (pool.size_bytes, pool.loads, pool.evictions) == (3 * size, 4, 1)
    assert pool.get("c", at(folders["c"])) is not first
    assert list(pool.held()) == ["a", "d", "c"]


def test_what_does_not_fit_beside_the_pinned_ones_is_refused(
    model: MixedModel, folders: dict[str, Path]
) -> None:
    size = AdapterPool(model, capacity_bytes=2**30).get("a", at(folders["a"])).size_bytes
    pool = AdapterPool(model, capacity_bytes=size + 1)
    pool.get("a", at(folders["a"]), pin=True)
    with pytest.raises(ModelError) as caught:
        pool.get("b", at(folders["b"]))
    assert caught.value.code == "model.no_room"
    assert f"takes {size} bytes, but of {size + 1} for adapters {size} " in caught.value.message
    assert list(pool.held()) == ["a"]


def test_many_who_ask_at_once_load_it_once(model: MixedModel, folders: dict[str, Path]) -> None:
    pool, begun, go = AdapterPool(model, capacity_bytes=2**30), threading.Event(), threading.Event()

    @contextmanager
    def slow() -> Iterator[Path]:
        begun.set()
        assert go.wait(20)
        yield folders["a"]

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(pool.get, "a", slow) for _ in range(8)]
        assert begun.wait(20)
        go.set()
        found: list[Loaded] = [one.result(20) for one in asked]
    assert pool.loads == 1
    assert all(one is found[0] for one in found)


def test_a_failure_is_told_and_not_kept(model: MixedModel, folders: dict[str, Path], tmp_path: Path) -> None:
    pool = AdapterPool(model, capacity_bytes=2**30)
    with pytest.raises(ModelError) as caught:
        pool.get("a", at(tmp_path))
    assert caught.value.code == "model.adapter_missing"
    assert pool.get("a", at(folders["a"])).about.base.id == "tiny-bert"


def _other_base(folder: Path, digest: str) -> Fetch:
    head = json.loads((folder / "head.json").read_text())
    head["base"]["digest"] = digest
    (folder / "head.json").write_text(json.dumps(head))
    (folder / "adapter_model.safetensors").write_bytes(b"not read")
    return at(folder)


@pytest.mark.promise("adapter-fits-base")
def test_another_base_is_refused_with_both_digests_before_a_tensor_is_read(
    model: MixedModel, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    pool = AdapterPool(model, capacity_bytes=2**30)
    fetch = _other_base(write(tmp_path / "a", tiny["bert"], "small"), "ab" * 32)
    with pytest.raises(ModelError) as caught:
        pool.get("a", fetch)
    assert caught.value.code == "model.base_differs"
    assert "ab" * 32 in caught.value.message
    assert tiny["bert"].digest in caught.value.message


def test_without_what_its_covariates_need_it_is_refused_before_a_tensor_is_read(
    model: MixedModel, tiny: dict[str, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "a", tiny["bert"], "drug")
    (folder / "adapter_model.safetensors").write_bytes(b"not read")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rdkit" else found(name))
    with pytest.raises(DataError, match=r"rdkit.*plasmid\[molecules\]"):
        AdapterPool(model, capacity_bytes=2**30).get("a", at(folder))


@pytest.mark.promise("adapter-fits-base")
def test_another_vocabulary_is_refused_with_both_values(
    model: MixedModel, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", tiny["bert"], "small")
    own = tiny["bert"].path / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(own.read_bytes())
    pool = AdapterPool(model, capacity_bytes=2**30)
    pool.get("same", at(folder))
    (folder / "tokenizer.json").write_bytes(own.read_bytes() + b"\n")
    with pytest.raises(ModelError, match=r"reads tokenizer.json [0-9a-f]{64}, the base model here") as caught:
        pool.get("other", at(folder))
    assert caught.value.code == "model.vocabulary_differs"
