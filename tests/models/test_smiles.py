"""The encoder of SMILES that comes with Plasmid: its tokens, what it was taught, that it knows something."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from plasmid.bases import catalogue
from plasmid.bases.importer import import_folder
from plasmid.bases.smiles.vocabulary import TWO_LETTERS, UNKNOWN, VOCABULARY, tokenizer_files
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.bases.tokenizing import Tokenizer
from plasmid.recipes.catalogue import ROOT

Chem = pytest.importorskip("rdkit.Chem")

MOLECULES = [
    *("CC(=O)Oc1ccccc1C(=O)O", "CN1CCC[C@H]1c1cccnc1", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "C/C=C/CN", "CCO"),
    *(
        "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
        "NCCc1ccc(O)c(O)c1",
        "CCN(CC)CC",
        "O=C(O)CCc1c[nH]c2ccccc12",
        "CC(N)C(=O)O",
    ),
]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(tmp_path_factory.mktemp("home")))
        return ensure_model("plasmid-smiles")


def _tokens(smiles: str) -> list[str]:
    from tokenizers import Tokenizer as Reader

    reader = Reader.from_str(tokenizer_files(512)["tokenizer.json"].decode())
    return [VOCABULARY[token] for token in reader.encode(smiles).ids[1:-1]]


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("CC[C@@H](Br)Cl", ["C", "C", "[C@@H]", "(", "Br", ")", "Cl"]),
        ("c1c[nH]cc1", ["c", "1", "c", "[nH]", "c", "c", "1"]),
        ("CSc1ccon1", ["C", "S", "c", "1", "c", "c", "o", "n", "1"]),  # no scandium, no cobalt
        ("[Sc+3]", ["[", "Sc", "+", "3", "]"]),
        ("[13C@@H]", ["[", "1", "3", "C", "@@", "H", "]"]),
        ("[64Cu]", ["[", "6", "4", "Cu", "]"]),
        ("N[Pt@SP1]", ["N", "[", "Pt", "@", "SP", "1", "]"]),
        ("C%12=O", ["C", "%", "1", "2", "=", "O"]),
    ],
)
def test_a_token_is_what_a_chemist_reads_as_one_sign(smiles: str, tokens: list[str]) -> None:
    assert _tokens(smiles) == tokens


def test_every_element_is_known_and_no_cell_spells_a_special_token() -> None:
    table = Chem.GetPeriodicTable()
    for number in range(1, 119):
        symbol = table.GetElementSymbol(number)
        assert _tokens(f"[{symbol}-2]")[1] == symbol
    assert len(TWO_LETTERS) == len(set(TWO_LETTERS))
    assert set(_tokens("<mask>")) == {"<mask>"}, "so no SMILES column may hold '<'"
    from plasmid.recipes.columns import SMILES_CHARACTERS

    assert "<" not in SMILES_CHARACTERS


def test_molecules_are_varied_by_the_seed_alone_and_stay_molecules() -> None:
    from plasmid.bases.smiles import corpus

    (first,), (again,) = ([*islice(corpus.drawn(MOLECULES, MOLECULES, 3, 200), 1)] for _ in range(2))
    assert first.smiles == again.smiles
    assert first.smiles != next(corpus.drawn(MOLECULES, MOLECULES, 4, 200)).smiles
    assert all(Chem.CanonSmiles(text) == text for text in first.smiles)
    assert any("[NH+]" in text or "[NH3+]" in text for text in first.smiles)
    assert any(text.count("c1ccccc1") == 1 and "@" in text for text in first.smiles)
    assert max(map(len, first.smiles)) > max(map(len, MOLECULES)), "some are two in one"
    assert first.values.shape == (len(first.smiles), 79)
    assert first.fragments.shape == (len(first.smiles), 1024)
    benzene = Chem.MolFromSmiles("c1ccccc1")
    assert corpus.descriptors(benzene)[0] == pytest.approx(78.047, abs=1e-3), "the exact mass"


def test_what_the_command_makes_is_learned_and_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plasmid.bases.smiles import corpus, pretraining

    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretraining, "WARMUP", 5)
    torch.manual_seed(0)
    drawn = corpus.drawn(MOLECULES, MOLECULES, 0, 140)
    blocks = [next(drawn), next(drawn)]
    before = pretraining.pretrain(model := pretraining.Pretrained(hidden=64), blocks, passes=0, seed=0)
    after = pretraining.pretrain(model, blocks, passes=12, seed=0)
    # Descriptors are in units of their deviation: two dozen steps on ten molecules say little of them.
    assert after["masked_loss"] < 0.8 * before["masked_loss"]
    assert after["fragment_loss"] < 0.8 * before["fragment_loss"]
    assert set(after) == {"masked_loss", "descriptor_loss", "fragment_loss"}
    pretraining.write(model, tmp_path / "made")
    base = import_folder(tmp_path / "made", model_id="made", kind="molecule")
    assert base.entry.architecture == "modernbert"
    assert set(base.header) == set(model.model.model.state_dict())


def test_the_shipped_weights_are_the_pinned_ones_and_small(shipped: BaseModel) -> None:
    entry = catalogue.get("plasmid-smiles")
    assert shipped.digest == entry.digest
    assert entry.installed
    assert (entry.input, entry.licence) == ("molecule", "Apache-2.0")
    folder = catalogue.ENTRIES.parent / "weights/plasmid-smiles"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    assert (shipped.path / "tokenizer.json").read_bytes() == tokenizer_files(512)["tokenizer.json"]


def test_no_molecule_of_a_recipe_has_an_unknown_token(shipped: BaseModel) -> None:
    reader = Tokenizer(shipped)
    texts = [
        row["smiles"]
        for name in ("water-solubility", "target-affinity")
        for path in (ROOT / name / "data").glob("*.csv")
        for row in csv.DictReader(path.read_text("utf-8").splitlines())
    ]
    found = reader.encode(texts, 128)
    assert len(texts) > 5000
    assert not any(UNKNOWN in one.ids for one in found)


def test_a_frozen_encoder_already_tells_solubility_from_scaffolds_that_it_was_not_fitted_to(
    shipped: BaseModel,
) -> None:
    from sklearn.linear_model import Ridge
    from transformers import AutoModel

    encoder, reader = AutoModel.from_pretrained(shipped.path).eval(), Tokenizer(shipped)

    def pooled(name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
        with (ROOT / "water-solubility" / "data" / f"{name}.csv").open(encoding="utf-8") as source:
            found = list(csv.DictReader(source))[::2][:rows]
        vectors = []
        with torch.no_grad():
            for one in reader.encode([row["smiles"] for row in found], 128):
                states = encoder(input_ids=torch.tensor([one.ids])).last_hidden_state[0]
                vectors.append(states[1:-1].mean(0).numpy())
        return np.stack(vectors), np.array([float(row["solubility"]) for row in found])

    train, values = pooled("rings-1", 100)
    test, truth = pooled("test", 100)
    errors = Ridge(alpha=1.0).fit(train, values).predict(test) - truth
    assert np.sqrt(np.mean(errors**2)) < 0.75 * truth.std()
