"""Sites and test as files: the recipe's own, or the caller's folder and file."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import DataError, PlasmidError
from plasmid.recipes.load import load_recipe
from plasmid.recipes.sites import materialise_eval, materialise_sites, sites_in_folder
from plasmid.recipes.split import dirichlet_split


def cells(path: Path, column: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def test_six_donors_train_and_two_are_the_test(tmp_path: Path) -> None:
    resolved = load_recipe("tcr-covid")
    sites = materialise_sites(resolved, tmp_path)
    assert list(sites) == [f"donor_{donor}" for donor in (1005703, 1886, 3646, 5649, 7717, 7736)]
    assert list(tmp_path.iterdir()) == []
    test = materialise_eval(resolved, tmp_path)
    assert test is not None
    assert Counter(cells(test, "label")) == {"1": 877, "0": 522}
    assert sum(len(cells(path, "label")) for path in sites.values()) == 7528 - 1399


def test_phenotype_is_dealt_to_six_sites_without_losing_or_repeating_a_row(tmp_path: Path) -> None:
    resolved = load_recipe("phenotype")
    sites = materialise_sites(resolved, tmp_path)
    test = materialise_eval(resolved, tmp_path)
    assert test is not None
    assert list(sites) == [f"site-{number}" for number in range(1, 7)]
    sizes = [len(cells(path, "term")) for path in sites.values()]
    terms = Counter(term for path in [*sites.values(), test] for term in cells(path, "term"))
    source = resolved.folder / "data" / "phenotype_definitions.csv"
    assert terms == Counter(cells(source, "term"))
    assert set(terms.values()) == {1}
    held_out, everything = Counter(cells(test, "organ_system")), Counter(cells(source, "organ_system"))
    assert all(held_out[label] == round(0.2 * count) for label, count in everything.items())
    assert min(sizes) >= 200
    top = [Counter(cells(path, "organ_system")).most_common(1)[0][1] for path in sites.values()]
    assert max(np.array(top) / np.array(sizes)) > 0.4, "the sites differ in their mixtures"
    again = materialise_sites(resolved, tmp_path / "again")
    assert [path.read_bytes() for path in again.values()] == [path.read_bytes() for path in sites.values()]


def test_where_each_site_answers_something_else_no_table_is_for_all(tmp_path: Path) -> None:
    resolved = load_recipe("target-affinity")
    assert materialise_eval(resolved, tmp_path) is None
    assert resolved.recipe.adapter.personal == ("head",)
    sites = materialise_sites(resolved, tmp_path)
    assert len(sites) == 6
    scaffolds = [set(cells(path, "scaffold")) for path in sites.values()]
    assert len(set.union(*scaffolds)) == sum(map(len, scaffolds))


def test_the_split_is_the_same_everywhere() -> None:
    labels = [str(number % 7) for number in range(2000)]
    split = dirichlet_split(labels, sites=4, alpha=0.5, test_share=0.25, min_rows=50, seed=3)
    assert sorted(np.concatenate([split.test, *split.sites]).tolist()) == list(range(2000))
    text = " ".join(",".join(map(str, part)) for part in (split.test, *split.sites))
    assert sha256_hex(text.encode()) == "fd799c7da7c2d34ca3b3942897c30b096dc17474026385293053a99eafb61364"


def test_a_split_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be dealt to 4 sites") as caught:
        dirichlet_split(["a"] * 20, sites=4, alpha=0.5, test_share=0.5, min_rows=3, seed=0)
    assert caught.value.code == "data.too_few_rows"


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_text("cdr3,label\nCASS,1\n")
    return tmp_path


def test_a_folder_of_sites_and_an_evaluation_file_replace_the_recipes_own(tmp_path: Path) -> None:
    resolved = load_recipe("tcr-covid")
    given = folder(tmp_path, "b.csv", "a-1.csv", "c_2.CSV", "a-1.policy.yaml", "notes.txt")
    (given / "d.csv").mkdir()
    assert list(materialise_sites(resolved, tmp_path / "t", given)) == ["a-1", "b", "c_2"]
    assert materialise_eval(resolved, tmp_path / "t", given / "b.csv") == given / "b.csv"
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("names", "code", "what"),
    [
        ((), "data.no_sites", "holds no CSV file"),
        (("a.csv",), "data.too_few_sites", "has 1 site\\(s\\), the recipe needs at least 3"),
        (("a.csv", "b.csv"), "data.too_few_sites", "has 2 site"),
        (("a.csv", "b.csv", "St Mary.csv", "Ü.csv"), "data.site_name", "2 file\\(s\\).*St Mary.csv"),
        (("a.csv", "a.CSV", "b.csv", "c.csv"), "data.site_name", "the same site"),
        (("a.csv", "b.csv", "-c.csv"), "data.site_name", "-c.csv"),
        (("a.csv", "b.csv", ".csv"), "data.too_few_sites", "has 2 site"),
        (("a.csv", "b.csv", "x" * 64 + ".csv"), "data.site_name", "1 file"),
    ],
)
def test_a_folder_that_will_not_do(tmp_path: Path, names: tuple[str, ...], code: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        sites_in_folder(folder(tmp_path, *names), minimum=3)
    assert caught.value.code == code


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        sites_in_folder(tmp_path / "gone", minimum=3)
    with pytest.raises(DataError, match="there is no such file"):
        materialise_eval(load_recipe("tcr-covid"), tmp_path, tmp_path / "gone.csv")


def test_a_recipe_without_data_asks_for_a_folder(tmp_path: Path) -> None:
    resolved = load_recipe("tcr-covid", overrides={"data.split": "null"})
    with pytest.raises(PlasmidError, match="Give --sites DIR"):
        materialise_sites(resolved, tmp_path)
    assert materialise_eval(resolved, tmp_path) is None


def test_data_outside_the_recipes_folder_is_not_read(tmp_path: Path) -> None:
    for name in ("data/../../phenotype/data/phenotype_definitions.csv", "data/gone.csv"):
        resolved = load_recipe("tcr-covid", overrides={"data.split.test": f"[{name}]"})
        with pytest.raises(DataError, match="no file in its folder"):
            materialise_eval(resolved, tmp_path)
