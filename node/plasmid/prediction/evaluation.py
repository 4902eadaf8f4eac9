"""From a trained state to an adapter's folder, and from that folder to scores on a file.

Rules
-----
1. An adapter carries the part of the data contract that its own columns need, so a file is read for
   scoring exactly as the sites read theirs.
2. Scores are computed in float32, from the folder alone and the base model that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.adapters.adapter import Vector
from plasmid.adapters.artifact import Seal, read_adapter, write_adapter
from plasmid.adapters.card import CardFacts
from plasmid.adapters.files import HeadFile, adapter_files
from plasmid.adapters.predict import Predictor
from plasmid.bases.store import BaseModel
from plasmid.computations._personal import personal_parts
from plasmid.data.table import Table
from plasmid.data.views.reading import read_table
from plasmid.prediction.inputs import contract_of
from plasmid.prediction.job import told_cut
from plasmid.recipes.schema import Recipe
from plasmid.release.result import release_settings
from plasmid.tasks import Answers, Head


@dataclass(frozen=True)
class Scores:
    """Answers for the rows of a file.

    Attributes
    ----------
    notices
        What the reader of the file changed, as sentences.
    """

    head: Head
    answers: Answers
    notices: tuple[str, ...]

    def as_json(self) -> list[Any]:
        """Return a value for each row, the probability of label 1 of two, say: see :meth:`Head.brief`."""
        return [self.head.brief(row) for row in self.answers]

    def lines(self) -> list[str]:
        """Return the lines of a CSV file; numbers in one cell have blanks between them."""
        shapes, cells = self.head.columns(), self.head.table(self.answers)
        written = [[_cell(shape, cell) for cell in cells[name]] for name, shape in shapes.items()]
        return [",".join(shapes), *(",".join(row) for row in zip(*written, strict=True))]


def _cell(shape: str, cell: Any) -> str:
    if shape == "number":
        return f"{cell:.6f}"
    return " ".join(f"{value:.3f}" for value in cell) if shape == "numbers" else str(cell)


@dataclass(frozen=True)
class Evaluation:
    """How good an adapter is on a labelled file: *value* of *metric* over *rows* rows."""

    metric: str
    value: float
    rows: int
    notices: tuple[str, ...]


def write_release(
    folder: Path,
    recipe: Recipe,
    base: BaseModel,
    state: Vector,
    *,
    provenance: Mapping[str, Any],
    results: Mapping[str, float] | None = None,
    privacy: str = "",
    project: str = "",
    attested: str = "",
    seal: Seal = lambda _: {},
) -> None:
    """Write what *recipe* trained to *folder*.

    Parameters
    ----------
    state
        The last public state.
    provenance
        JSON values: recipe and base digests, rounds, participants, code version, metrics.
    results
        Lines of the card's table: the recipe's metric on unseen data by model.
    privacy, project, attested
        Paragraphs for the card.
    seal
        As for :func:`plasmid.adapters.artifact.write_adapter`.

    Raises
    ------
    ModelError, StorageError
        As :func:`plasmid.adapters.artifact.write_adapter`.
    """
    settings = release_settings(recipe, base, state)
    write_adapter(
        folder,
        adapter_files(**settings),
        parameters=settings["schema"].size,
        facts=CardFacts(
            title=recipe.title,
            license=recipe.release.license,
            recipe=recipe.name,
            task=recipe.task.kind,
            data=recipe.release.data,
            intended_use=recipe.release.intended_use,
            limitations=recipe.release.limitations + _lacking(recipe),
            privacy=privacy,
            project=project,
            attested=attested,
            results=dict(results or {}),
        ),
        provenance=provenance,
        seal=seal,
    )


def _lacking(recipe: Recipe) -> str:
    """Return a sentence about what each site keeps, empty where nothing is."""
    own = sorted(personal_parts(recipe))
    if not own:
        return ""
    return (
        f" Each site keeps a part of its adapter for itself ({', '.join(own)}). Here that part is as it "
        "started: this adapter alone says nothing that was learned with it."
    )


def read_for(about: HeadFile, path: Path, *, labels: bool) -> Table:
    """Return the columns of the file *path* that an adapter reads, and its label column if *labels*.

    Raises
    ------
    ModelError
        ``model.adapter_invalid``: the adapter's columns are no data contract.
    DataError
        As :func:`plasmid.data.views.reading.read_table`.
    """
    return read_table(path, contract_of(about), labels=labels)


def predict_file(folder: Path | str, data: Path | str) -> Scores:
    """Return the scores of the adapter in *folder* for the rows of the file *data*.

    Raises
    ------
    ModelError, DataError
        As :class:`plasmid.adapters.predict.Predictor` and :func:`read_for`.
    """
    predictor = Predictor.load(Path(folder))
    about = predictor.about
    table = read_for(about, Path(data), labels=False)
    found = predictor.predict(table.columns)
    told = (told_cut(found.cut, about),) if found.cut else ()
    return Scores(about.head, found.answers, (*table.notices, *told))


def evaluate_file(folder: Path | str, data: Path | str) -> Evaluation:
    """Return the metric of the adapter in *folder* on the labelled file *data*.

    Raises
    ------
    ModelError, DataError
        As :func:`predict_file`; ``data.one_class``, ``data.one_value``: the metric has no value on rows that
        all have the same label.
    """
    adapter = read_adapter(Path(folder))
    table = read_for(adapter.about, Path(data), labels=True)
    about = adapter.about
    value = Predictor(adapter).score(table.columns)
    return Evaluation(about.metric, value, table.rows, table.notices)
