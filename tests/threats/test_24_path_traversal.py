"""Row 24. Attack: path traversal in adapter, tensor and archive names: safetensors takes ``../../etc/x``.

Must hold: no path is ever made from such a name. Bodies' digests are in tests/link/test_bodies.py, too.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.numpy import save_file

from plasmid.adapters.adapter import adapter_schema, initial_state
from plasmid.adapters.artifact import read_adapter, write_adapter
from plasmid.adapters.card import CardFacts
from plasmid.adapters.files import BaseRef, adapter_files
from plasmid.bases.importer import import_folder
from plasmid.bases.sources import read_weights
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel, open_model
from plasmid.bases.tensors import read_header, valid_name
from plasmid.core.errors import PlasmidError
from plasmid.gateway.home import SiteConfig
from plasmid.gateway.replay import Marks
from plasmid.link.bodies import Bodies
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import load_recipe
from plasmid.recipes.schema import Name
from plasmid.secagg.statements import RunId, SiteName
from plasmid.tasks.classification import ClassificationHead
from support.federation.attacks import refusal
from support.federation.bundle_recipes import bundle_recipe
from support.tiny.tiny_models import tiny_bert

CLIMBERS = (
    "../../etc/x",
    "..",
    ".",
    "/etc/passwd",
    "a/../../b",
    "..\\..\\x",
    "a/b",
    "%2e%2e%2fx",
    "~/x",
    "x\0y",
    "x\n",
    "",
    "a" * 300,
    "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}/x",
)


def tree(folder: Path) -> list[str]:
    """Return every file below *folder*."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CLIMBERS)
def test_a_tensor_s_name_is_dotted_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: np.zeros(3, np.float32)}, path)
    with safe_open(path, "np") as file:  # the control: the library writes and reads it
        assert list(file.keys()) == [name]
    assert not valid_name(name)
    with refusal("model.tensors_invalid"):
        read_header(path)


@pytest.mark.promise("no-path-from-names")
@pytest.mark.parametrize("name", CLIMBERS)
def test_names_that_become_paths_have_patterns(name: str) -> None:
    for kind in (SiteName, RunId, Name):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(name)
    for values in ({"id": name, "revision": "1"}, {"id": "tiny", "revision": name}):
        with pytest.raises(ValidationError):
            BaseRef(digest="0" * 64, **values)
    with pytest.raises(ValidationError):
        SiteConfig(name=name, organisation="A")
    assert BaseRef(id="tiny", revision="1", digest="0" * 64).id == "tiny"  # the control


@pytest.mark.promise("no-path-from-names")
@pytest.mark.parametrize("name", CLIMBERS)
def test_nothing_is_read_or_written_beside_the_folder(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a name reaches a function that makes a path of it, the function refuses."""
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    monkeypatch.setenv("PLASMID_HOME", str(inside / "home"))
    before = tree(tmp_path)
    bodies = Bodies(inside)
    bodies.expect(name, 4)
    attempts: list[Any] = [
        lambda: bodies.take_chunk(name, "alpha", "0" * 64, 0, 4, b"abcd", "0" * 64),
        lambda: bodies.received("run-1", name, "0" * 64),
        lambda: bodies.received("run-1", "alpha", name),
        lambda: bodies.published(name),
        lambda: Marks(inside / "runs").read(name),
        lambda: open_model(name),
        lambda: import_folder(inside, model_id=name or "-"),
        lambda: load_recipe(name or "-", overrides={}, seed=None),
    ]
    for attempt in attempts:
        with pytest.raises(PlasmidError):
            attempt()
    bodies.drop_run(name)
    assert tree(tmp_path) == before


def test_an_index_names_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    source = tiny_bert(tmp_path / "mine")
    weights = source / "model.safetensors"
    names = list(read_header(weights))
    (tmp_path / "elsewhere.safetensors").write_bytes(weights.read_bytes())
    weights.rename(source / "part.safetensors")
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "part.safetensors")}))
    assert import_folder(source).entry.architecture == "bert"  # the control: a name beside it is taken
    for name in (
        "../elsewhere.safetensors",
        str(tmp_path / "elsewhere.safetensors"),
        ".safetensors",
        "..",
        7,
    ):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))
        with refusal("model.refused"):
            import_folder(source)


# -- adapters, archives and bundles ----------------------------------------------------------------


def written_adapter(folder: Path, base: BaseModel) -> Path:
    head, lora = (
        ClassificationHead(labels=["no", "yes"]),
        LoraSpec(rank=2, alpha=4.0, targets=["query"], layers=1),
    )
    schema = adapter_schema(base, lora, head)
    write_adapter(
        folder,
        adapter_files(
            schema=schema,
            state=initial_state(schema, 0),
            base=base,
            lora=lora,
            head=head,
            input_column="sequence",
            label_column="label",
            metric="auc",
            max_length=20,
            columns={"sequence": {"type": "protein"}},
        ),
        parameters=schema.size,
        facts=CardFacts(title="Tiny", license="MIT", data="Made up.", results={}),
        provenance={},
    )
    return folder


@pytest.mark.parametrize("name", CLIMBERS)
def test_an_adapter_s_tensors_name_no_place(tmp_path: Path, tiny: dict[str, BaseModel], name: str) -> None:
    folder = written_adapter(tmp_path / "a" / "adapter", tiny["bert"])
    assert read_adapter(folder).about.lora.rank == 2  # the control
    for file in ("adapter_model.safetensors", "head.safetensors"):
        kept = (folder / file).read_bytes()
        save_file({name: np.zeros(3, np.float32)}, folder / file)
        before = tree(tmp_path)
        with refusal("model.tensors_invalid"):
            read_adapter(folder)
        assert tree(tmp_path) == before
        (folder / file).write_bytes(kept)


def archive(name: str) -> bytes:
    """Return torch's archive of one tensor, with one more part called *name*."""
    made = io.BytesIO()
    torch.save({"bert.x": torch.zeros(3)}, made)
    with zipfile.ZipFile(made, "a") as parts:
        parts.writestr(zipfile.ZipInfo(name), b"climbed")
    return made.getvalue()


@pytest.mark.parametrize("name", ["../../climbed", "/climbed", "archive/../../../climbed", "..\\..\\climbed"])
def test_an_archive_s_parts_are_never_unpacked(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    (inside / "pytorch_model.bin").write_bytes(archive(name))
    with zipfile.ZipFile(inside / "pytorch_model.bin") as parts:  # the control: the part is there
        assert parts.read(name) == b"climbed"
    before = tree(tmp_path)
    try:
        assert set(read_weights(inside)) == {"bert.x"}  # what is no tensor's is not looked at
    except PlasmidError as error:
        assert error.code == "model.refused"  # noqa: PT017 - both outcomes are right
    assert tree(tmp_path) == before
    assert not list(tmp_path.rglob("climbed"))


@pytest.mark.parametrize(
    "name", [*CLIMBERS, "../entry.py", "/tmp/entry.py", "below/entry.py", "..\\entry.py"]
)
def test_a_bundle_s_files_are_words_with_an_ending(name: str) -> None:
    document = bundle_recipe("x = 1").model_dump(mode="json")
    document["bundle"]["files"]["more.py"] = ""
    parse_document(document)  # the control
    document["bundle"]["files"][name] = ""
    with refusal("recipe.malformed"):
        parse_document(document)
