"""The scripts beside recipes that make their tables, and what of it is shipped."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from plasmid.recipes import catalogue
from plasmid.recipes.load import load_recipe


def script(recipe: str, name: str) -> ModuleType:
    """Return the script *name* of *recipe*, which is no module of the package."""
    spec = importlib.util.spec_from_file_location(f"{name}_of_recipe", catalogue.ROOT / recipe / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


def protein(seed: int, length: int = 60) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWY"), length))


def test_relatives_of_relatives_are_one_cluster_and_one_of_them_stands_for_it() -> None:
    clusters = script("capsid", "clusters")
    first, last, other = protein(1), protein(2), protein(3)
    between = first[:30] + last[:30]
    assert Counter(clusters.clusters([first, other, between, last])).most_common()[0][1] == 3
    assert len(set(clusters.clusters([first, last, other]))) == 3
    nine_words = first[:9] + last[9:]  # 5 of 56 different words: less than a tenth
    assert len(set(clusters.clusters([first, nine_words]))) == 2

    mixed = [(protein(4), "0"), (protein(4) + "A", "1")]
    chosen = clusters.chosen([(first, "1"), (between, "1"), (last, "1"), (other, "0"), *mixed])
    assert [label for _, label in chosen].count("1") == 1
    assert (other, "0") in chosen
    assert not set(mixed) & set(chosen), "a cluster of both labels is left out"


def test_no_two_of_the_shipped_capsid_proteins_are_relatives() -> None:
    clusters = script("capsid", "clusters")
    shipped = rows(catalogue.ROOT / "capsid" / "data" / "proteins.csv")
    assert Counter(row["label"] for row in shipped) == {"0": clusters.OF_EACH, "1": clusters.OF_EACH}
    assert len(set(clusters.clusters([row["sequence"] for row in shipped]))) == len(shipped)


def test_the_shipped_flights_are_what_their_script_and_the_recipe_say() -> None:
    flights = script("flights", "flights")
    folder = catalogue.ROOT / "flights" / "data"
    tables = {path.stem: rows(path) for path in folder.glob("*.csv")}
    test = tables.pop("test")
    assert set(tables) == set(flights.AIRLINES.values())
    assert {len(found) for found in tables.values()} == {flights.ROWS}
    assert len(test) == flights.TEST_ROWS * len(tables)
    assert tuple(test[0]) == flights.COLUMNS
    late = {name: sum(row["late"] == "late" for row in found) / len(found) for name, found in tables.items()}
    assert 0.12 < min(late.values()) < max(late.values()) < 0.32, "sites differ"
    recipe = load_recipe("flights").parsed
    missing = {name for found in tables.values() for row in found for name, cell in row.items() if not cell}
    assert missing == {name for name, column in recipe.data.columns.items() if column.missing == "allowed"}


def release(chapters: int, categories: int) -> ET.Element:
    """Return a made-up classification; of each category one code repeats a text of another chapter."""
    root = ET.Element("tabular")
    for number in (*range(1, chapters + 1), 22):
        chapter = ET.SubElement(root, "chapter")
        ET.SubElement(chapter, "name").text = str(number)
        ET.SubElement(chapter, "desc").text = f"Part {number} (A{number})"
        section = ET.SubElement(chapter, "section")
        for at in range(categories):
            category = ET.SubElement(section, "diag")
            ET.SubElement(category, "desc").text = f"{number}/{at}"
            for code in range(5):
                below = ET.SubElement(category, "diag")
                ET.SubElement(below, "desc").text = f"{number}/{at} code {code}" if code else "Other"
    return root


def test_codes_of_a_category_stay_together_and_none_is_written_twice() -> None:
    chapters = script("icd-chapter", "chapters")
    found = chapters.categories(release(3, 4))
    assert len(found) == 12, "chapter 22 is left out"
    assert {label for part in found for _, label in part} == {"Part 1", "Part 2", "Part 3"}
    texts = [text for part in found for text, _ in part]
    assert len(texts) == len(set(texts))
    assert {len(part) for part in found} <= {1 + chapters.OF_CATEGORY, chapters.OF_CATEGORY}


def test_no_category_is_both_in_the_test_and_at_a_site() -> None:
    chapters = script("icd-chapter", "chapters")
    made = chapters.files(release(3, 400))
    assert made == chapters.files(release(3, 400)), "the same bytes each time"
    held = {
        name: {line.split(" ")[0].split(",")[0] for line in content.decode().splitlines()[1:]} - {"Other"}
        for name, content in made.items()
    }
    assert sum(map(len, held.values())) == len(set().union(*held.values())) == 1200
    assert len(held["test.csv"]) == 240
    assert {name for name in made if name != "test.csv"} == {f"sites/site-{n}.csv" for n in range(1, 7)}


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_the_script_says_how_it_is_called(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert script("icd-chapter", "chapters").main(arguments) == 2
    assert capsys.readouterr().err == "usage: python chapters.py DIR\n"


def test_nucleotides_are_decoded_and_one_window_stands_for_its_relatives() -> None:
    junctions = script("splice-junction", "junctions")
    # A C G T as mlbench writes them
    indicators = np.array([[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]])
    assert junctions.decoded(indicators) == ["ACGT"]
    source = np.random.default_rng(0)
    one, other, third = ("".join(source.choice(list("ACGT"), 60)) for _ in range(3))
    between = one[20:50] + other[:30]
    assert len(set(junctions.clusters([one, third, other, between]))) == 2
    assert len(set(junctions.clusters([one, one[:15] + third[15:]]))) == 2, "15 in a row are no relatives"
    windows = [
        (one, "donor"),
        (between, "donor"),
        (other, "donor"),
        (third, "neither"),
        (third[1:] + "A", "acceptor"),
    ]
    ((window, label),) = junctions.chosen(windows)
    assert (window in (one, between, other), label) == (True, "donor")
    assert junctions.table_of([(one, "donor")]).decode() == f"sequence,junction\n{one},donor\n"


def test_no_two_of_the_shipped_windows_are_relatives_and_junctions_look_like_ones() -> None:
    junctions = script("splice-junction", "junctions")
    shipped = rows(catalogue.ROOT / "splice-junction" / "data" / "junctions.csv")
    assert Counter(row["junction"] for row in shipped) == {"neither": 1514, "acceptor": 495, "donor": 491}
    assert len(set(junctions.clusters([row["sequence"] for row in shipped]))) == len(shipped) == 2500
    middle = {
        label: Counter(
            row["sequence"][at : at + 2] for row in shipped if row["junction"] == label
        ).most_common(1)[0]
        for label, at in (("donor", 30), ("acceptor", 28))
    }
    # An intron begins with GT and ends with AG, nearly always.
    assert middle["donor"][0] == "GT"
    assert middle["donor"][1] > 0.98 * 491
    assert middle["acceptor"][0] == "AG"
    assert middle["acceptor"][1] > 0.98 * 495


def test_a_scaffold_is_at_one_site_that_with_most_of_its_measurements() -> None:
    assays = script("target-affinity", "assays")
    sites = {
        "a": [("C1", "x", 5.0), ("C2", "x", 6.0), ("C3", "y", 7.0)],
        "b": [("C1", "x", 5.5), ("C4", "y", 6.5), ("C5", "z", 8.0)],
    }
    assert assays.divided(sites) == {
        "a": [("C1", "x", 5.0), ("C2", "x", 6.0), ("C3", "y", 7.0)],
        "b": [sites["b"][2]],
    }
    many = {"a": [(str(row), str(row // 300), 5.0) for row in range(1000)]}
    assert len(assays.divided(many)["a"]) == 600, "whole scaffolds, to 800 rows"


def test_no_scaffold_of_the_shipped_molecules_is_in_two_tables() -> None:
    pytest.importorskip("rdkit")
    assays, scaffolds = script("target-affinity", "assays"), script("water-solubility", "scaffolds")
    found: dict[str, str] = {}
    folder = catalogue.ROOT / "target-affinity" / "data"
    tables = {path.stem: rows(path) for path in folder.glob("*.csv")}
    assert set(tables) == set(assays.TARGETS)
    for site, table in tables.items():
        assert 780 <= len(table) <= assays.ROWS
        for row in table:
            assert found.setdefault(row["scaffold"], site) == site
        for row in table[::50]:
            assert assays.numbered(row["smiles"]) == (row["smiles"], row["scaffold"])
    folder = catalogue.ROOT / "water-solubility" / "data"
    for name in scaffolds.NAMES:
        assert {scaffolds.where(row["smiles"]) for row in rows(folder / f"{name}.csv")} == {name}
