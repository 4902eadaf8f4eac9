"""The folder of an adapter: read back exactly, loaded by stock PEFT, scored by its own card."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel

from plasmid.adapters.adapter import Vector, adapter_schema, initial_state
from plasmid.adapters.artifact import Seal, read_adapter, write_adapter
from plasmid.adapters.card import CardFacts
from plasmid.adapters.files import adapter_files, hub_name
from plasmid.adapters.predict import predict
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats, write_floats
from plasmid.core.errors import ModelError
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import CategoryCovariate, MoleculeCovariate, NumberCovariate, SequenceCovariate

GENE = CategoryCovariate(name="gene", vocabulary=["TRBV28*01", 'b\'s "gene"'])
AGE = NumberCovariate(name="age", bounds=(10, 90))
CDR3 = SequenceCovariate(name="cdr3", letters="ACDEFGHIKLMNPQRSTVWY", kmers=2, length=18, places=3)
DRUG = MoleculeCovariate(name="drug", bits=512)
HEADS = {
    "both": ClassificationHead(labels=["0", "1"], covariates=[GENE, AGE]),
    "category": ClassificationHead(labels=["0", "1", "2"], covariates=[GENE]),
    "number": ClassificationHead(labels=["0", "1"], covariates=[AGE]),
    "none": ClassificationHead(labels=["0", "1"]),
    "sequence": ClassificationHead(labels=["0", "1"], covariates=[CDR3]),
    "molecule": ClassificationHead(labels=["0", "1"], covariates=[DRUG]),
    "all": ClassificationHead(labels=["0", "1"], covariates=[GENE, CDR3, AGE]),
}
LORA = LoraSpec(rank=4, alpha=8.0, targets=["query", "dense"], layers=2)
EVERY = LoraSpec(rank=4, alpha=8.0, targets=["all-linear"], layers=2)
COLUMNS = {
    "cdr3": ["CASSYGQGPYGYTF", "CAS", "W", "CASSLLLLAQYFCASSLLLLAQYFCASSLLLLAQYFCASSLLLLAQYF", "CASSL"],
    "gene": ["TRBV28*01", 'b\'s "gene"', "unheard of", None, None],
    "age": [30.0, None, 9.0, 200.0, 77.7],
    "drug": ["CC(=O)Oc1ccccc1C(=O)O", "no molecule", "", None, "CN1CCC[C@H]1c1cccnc1"],
}


def _state(size: int) -> Vector:
    return (0.3 * np.random.default_rng(2).standard_normal(size)).astype(np.float32)


def _write(
    folder: Path,
    base: BaseModel,
    head: ClassificationHead = HEADS["both"],
    *,
    lora: LoraSpec = LORA,
    seal: Seal = lambda _: {},
) -> Vector:
    schema = adapter_schema(base, lora, head)
    state = initial_state(schema, 0) + _state(schema.size)
    write_adapter(
        folder,
        adapter_files(
            schema=schema,
            state=state,
            base=base,
            lora=lora,
            head=head,
            input_column="cdr3",
            label_column="label",
            metric="accuracy",
            max_length=20,
            columns={"cdr3": {"type": "protein"}},
        ),
        parameters=schema.size,
        facts=CardFacts(title="Tiny", license="MIT", data="Made up.", results={"federated": 0.8125}),
        provenance={"rounds": 3},
        seal=seal,
    )
    return state


@pytest.fixture(params=["bert", "esm"])
def base(request: pytest.FixtureRequest, tiny: dict[str, BaseModel]) -> BaseModel:
    return tiny[str(request.param)]


def test_read_back_is_exact(base: BaseModel, tmp_path: Path) -> None:
    state = _write(tmp_path / "a", base)
    adapter = read_adapter(tmp_path / "a")
    schema, found = adapter.on(base)
    assert np.array_equal(found, state)
    assert schema == adapter_schema(base, LORA, HEADS["both"])
    assert (adapter.about.head, adapter.about.lora, adapter.about.max_length) == (HEADS["both"], LORA, 20)
    assert adapter.about.base.digest == base.digest
    assert adapter.provenance == {"rounds": 3}
    _write(tmp_path / "b", base)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert str(tmp_path) not in path.read_text("utf-8", "ignore")
        assert str(base.path) not in path.read_text("utf-8", "ignore")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft on transformers 5
def test_stock_peft_loads_every_factor(base: BaseModel, tmp_path: Path) -> None:
    from peft import PeftModel

    _write(tmp_path / "a", base)
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base.path), tmp_path / "a")
    loaded = {
        name.replace(".default.weight", ".weight"): value.detach().numpy()
        for name, value in model.named_parameters()
        if ".lora_" in name
    }
    saved = read_floats(tmp_path / "a" / "adapter_model.safetensors")
    assert loaded.keys() == saved.keys()
    assert len(saved) == 2 * 2 * 4
    assert all(np.array_equal(loaded[name], saved[name]) for name in saved)


def _block(folder: Path) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


RUN = """
import json, os, pathlib, re, sys
for folder, rows in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    block = pathlib.Path("README.md").read_text("utf-8").split("```python\\n")[1].split("```")[0]
    for source in (block, re.sub(r"(?m)^rows = .*$", lambda _: "rows = " + repr(rows), block)):
        space = {}
        exec(source, space)
        found = {"folder": folder, "rows": space["rows"], "probabilities": space["probabilities"].tolist()}
        print(json.dumps(found))
"""


def test_the_card_has_few_lines_of_stock_code(base: BaseModel, tmp_path: Path) -> None:
    for name, head in HEADS.items():
        _write(tmp_path / name, base, head)
        block = _block(tmp_path / name)
        lines = block.strip().splitlines()
        counts, fragments = CDR3 in head.covariates, DRUG in head.covariates
        assert len(lines) <= 12 + 4 * counts + 3 * fragments
        assert max(map(len, lines)) <= 200
        imported = re.findall(r"^(?:import|from) (.*)$", block, re.MULTILINE)
        words = ["collections, itertools"] * counts
        words += ["math, rdkit.Chem, rdkit.Chem.rdFingerprintGenerator as generators"] * fragments
        assert imported == ["json, peft, safetensors.torch, torch, transformers", *words]


@pytest.mark.usefixtures("at_home")
def test_the_card_scores_like_predict(zoo: dict[str, BaseModel], tmp_path: Path) -> None:
    """Verbatim, and again with other rows; in a fresh process, the folder being the working directory."""
    given: dict[str, list[dict[str, Any]]] = {}
    for kind, name in (
        ("bert", "both"),
        ("esm", "both"),
        ("esm", "category"),
        ("bert", "number"),
        ("bert", "none"),
        ("roberta", "category"),
        ("modernbert", "none"),
        ("llama", "both"),
        ("bert", "sequence"),
        ("bert", "molecule"),
        ("esm", "all"),
    ):
        folder = tmp_path / f"{kind}-{name}"
        _write(folder, zoo[kind], HEADS[name], lora=LORA if kind in ("bert", "esm") else EVERY)
        (folder / hub_name(zoo[kind].id)).parent.mkdir()
        (folder / hub_name(zoo[kind].id)).symlink_to(zoo[kind].path)
        names = list(dict.fromkeys(["cdr3", *(one.name for one in HEADS[name].covariates)]))
        cells = zip(*(COLUMNS[name] for name in names), strict=True)
        given[str(folder)] = [dict(zip(names, row, strict=True)) for row in cells]
    output = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(given)], capture_output=True, text=True, check=True
    ).stdout
    answers = [json.loads(line) for line in output.strip().splitlines()]
    assert [len(answer["rows"]) for answer in answers] == [2, 5] * 11
    for answer in answers:
        columns = {name: [row[name] for row in answer["rows"]] for name in answer["rows"][0]}
        np.testing.assert_allclose(
            answer["probabilities"], predict(Path(answer["folder"]), columns), atol=1e-5
        )
    spread = [np.std(answer["probabilities"], axis=0).max() for answer in answers[1::2]]
    assert min(spread) > 0.01


def test_the_card_says_what_it_is(base: BaseModel, tmp_path: Path) -> None:
    _write(tmp_path / "a", base)
    card = (tmp_path / "a" / "README.md").read_text("utf-8")
    assert f"base_model: plasmid/{base.id}\n" in card
    parameters = adapter_schema(base, LORA, HEADS["both"]).size
    assert f"A LoRA adapter of {parameters:,} parameters (head included)" in card
    assert base.digest in card
    assert "| federated | 0.812 |" in card
    assert "Made up." in card


def _edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


def _tensors(name: str, **changed: Vector | None) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tensors: dict[str, Vector | None] = {**read_floats(folder / name), **changed}
        write_floats(folder / name, {key: value for key, value in tensors.items() if value is not None})

    return apply


ONE = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda folder: (folder / "head.json").unlink(), "model.adapter_missing"),
        (lambda folder: (folder / "head.safetensors").unlink(), "model.adapter_invalid"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "model.adapter_invalid"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "model.adapter_invalid"),
        (lambda folder: (folder / "provenance.json").write_text("[]"), "model.adapter_invalid"),
        (_edit("head.json", lambda value: value.update(extra=1)), "model.adapter_invalid"),
        (
            _edit("head.json", lambda value: value.pop("pooling") and value.update(pooling="cls")),
            "model.adapter_invalid",
        ),
        (_edit("head.json", lambda value: value["base"].update(id="../x")), "model.adapter_invalid"),
        (_edit("adapter_config.json", lambda value: value.update(lora_alpha=99)), "model.adapter_invalid"),
        (_tensors("head.safetensors", bias=None), "model.adapter_invalid"),
        (_tensors("head.safetensors", bias=ONE), "model.adapter_invalid"),
        (_tensors("head.safetensors", more=ONE), "model.adapter_invalid"),
        (_tensors("head.safetensors", bias=np.asarray([0, np.nan], np.float32)), "model.adapter_invalid"),
        (_tensors("adapter_model.safetensors", head=ONE), "model.adapter_invalid"),
        (_tensors("adapter_model.safetensors", **{"base_model.model.x": ONE}), "model.adapter_mismatch"),
    ],
)
def test_strange_adapters_are_refused(
    break_it: Callable[[Path], object], code: str, tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    _write(tmp_path / "a", tiny["bert"])
    break_it(tmp_path / "a")
    with pytest.raises(ModelError) as caught:
        read_adapter(tmp_path / "a").on(tiny["bert"])
    assert caught.value.code == code


def test_an_adapter_that_is_not_finite_is_not_made(tiny: dict[str, BaseModel]) -> None:
    schema = adapter_schema(tiny["bert"], LORA, HEADS["none"])
    state = np.full(schema.size, np.inf, np.float32)
    with pytest.raises(ModelError) as caught:
        adapter_files(
            schema=schema,
            state=state,
            base=tiny["bert"],
            lora=LORA,
            head=HEADS["none"],
            input_column="cdr3",
            label_column="label",
            metric="auc",
            max_length=20,
            columns={},
        )
    assert caught.value.code == "model.not_finite"


def test_the_last_files_are_made_from_all_the_others(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}

    def seal(others: Mapping[str, bytes]) -> dict[str, bytes]:
        seen.update(others)
        return {"seal": b"".join(sorted(others.values()))}

    _write(tmp_path / "a", tiny["bert"], seal=seal)
    written = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert written.pop("seal") == b"".join(sorted(seen.values()))
    assert written == seen


@pytest.mark.usefixtures("at_home")
def test_another_base_is_refused(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    _write(tmp_path / "a", tiny["bert"])
    _edit("head.json", lambda value: value["base"].update(digest="0" * 64))(tmp_path / "a")
    with pytest.raises(ModelError) as caught:
        predict(tmp_path / "a", COLUMNS)
    assert caught.value.code == "model.digest_differs"
