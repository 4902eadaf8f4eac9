"""What a recipe is: one frozen, strict document.

Rules
-----
1. A recipe names everything that decides a result: model, task, data contract, adapter, training,
   federation, privacy, release, seed, and the Python of a loss of its own if it has one. Data files are not
   part of it.
2. An unknown key, a value of another type and a contradiction between sections are errors. Sections
   are checked against each other by :func:`contradictions`, which also works on the sections that
   are sound when others aren't, so that all problems can be told at once.
3. The resolved document (``Recipe.model_dump(mode="json")``) holds JSON values only: it is what is
   digested, sent to sites and approved. Nothing in it is a path on anybody's disk but the names of the
   demonstration data inside the recipe's own folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from plasmid.bases.specs import LoraSpec, Quantization, unless_default
from plasmid.computations.api import METHODS, brought, impossible, is_method
from plasmid.recipes.cohort import Cohort
from plasmid.recipes.cohort_checks import cohort_problems
from plasmid.recipes.columns import (
    DEFAULT_MAX_ROWS,
    Column,
    ColumnName,
    Contract,
    IdentifierColumn,
    LabelColumn,
    ProteinColumn,
    ResidueLabelsColumn,
    SequenceColumn,
    Strict,
    TextColumn,
    Words,
)
from plasmid.recipes.covariates import CAN_BE, SEQUENCES, covariate_of
from plasmid.recipes.methods import method_contradictions
from plasmid.recipes.protection import (
    Limits,
    Location,
    Privacy,
    audit_limits,
    masked_limits,
    refuse,
    unit_limits,
)
from plasmid.recipes.python import LossBundle, loss_contradictions
from plasmid.recipes.server import Server, server_contradictions
from plasmid.recipes.stopping import Stop, stop_contradictions
from plasmid.recipes.training import Training, training_contradictions
from plasmid.recipes.weights import Weights, weight_contradictions
from plasmid.tasks import AnyTask, Head, Task
from plasmid.tasks.covariates import DEFAULT_KMERS

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Sentence = Annotated[str, StringConstraints(max_length=4000)]
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DataFile = Annotated[
    str, StringConstraints(min_length=1, max_length=300, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ModelRef(Strict):
    """A base model of the catalogue. Revision and digest are filled in when the recipe is resolved.

    ``quantization`` is how its frozen weights are held in training; a document without the key has ``none``,
    and is written without it.
    """

    base: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    revision: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    digest: Hex256 | None = None
    quantization: Quantization = "none"

    @model_serializer(mode="wrap")
    def _named(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(handler(self), "quantization", "none")


class FilesSplit(Strict):
    """Demonstration data with natural sites: one file a site, its stem the site's name; other files test.

    There are none where each site answers something else, so that no table is for all of them.
    """

    kind: Literal["files"]
    train: Annotated[tuple[DataFile, ...], Field(strict=False, min_length=1, max_length=1000)]
    test: Annotated[tuple[DataFile, ...], Field(strict=False, max_length=1000)]


class DirichletSplit(Strict):
    """Demonstration data in one file, cut into sites whose label shares follow Dirichlet(``alpha``).

    ``test_share`` of each label is held out first. The seed is the split's own: another seed of the
    recipe trains on the same sites.
    """

    kind: Literal["dirichlet"]
    file: DataFile
    sites: Annotated[int, Field(ge=2, le=1000)]
    alpha: Annotated[float, Field(gt=0, le=1e6)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    min_rows: Annotated[int, Field(ge=1)] = 32
    seed: Seed = 0


Split = Annotated[FilesSplit | DirichletSplit, Field(discriminator="kind")]


class Holdout(Strict):
    """Rows that no site trains on, kept for judging: by whole patients, or by rows.

    Which ones follows from ``seed`` and the person (or the row's content) alone, so that it is the same at
    every site and through every connector. ``share`` is that of patients, or rows, on average.
    """

    by: Literal["patient", "record"]
    share: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed = 0


class Data(Strict):
    """The data contract, and the demonstration data if the recipe ships some.

    ``label`` is what is learned; a task on unlabelled rows has none.
    ``patient`` names the identifier column whose equal cells are one person; needed by ``unit: patient``.
    ``cohort`` says how rows come from dated events of people; None is one table of rows.
    """

    input: ColumnName
    label: ColumnName | None = None
    patient: ColumnName | None = None
    columns: Annotated[dict[ColumnName, Column], Field(min_length=1, max_length=1000)]
    split: Split | None = None
    holdout: Holdout | None = None
    cohort: Cohort | None = None
    max_rows: Annotated[int, Field(ge=1, le=100_000_000)] = DEFAULT_MAX_ROWS


class AdapterSpec(Strict):
    """The LoRA factors, and the columns that reach the head beside the pooled encoding.

    ``sketch_width`` is for ``computation: sketch`` alone: at least the sum of the sites' ranks. So are
    ``ranks``, by site: such a site trains the first so many components of the public adapter; all others, and
    the released adapter, have the rank of ``lora``.
    ``personal`` names what each site keeps for itself beside what the method keeps: ``head``, with its
    covariate weights.
    A covariate that is a sequence, the input or another, is counted by its words of up to ``kmers`` letters.
    """

    lora: LoraSpec
    covariates: Words = ()
    kmers: Annotated[int, Field(ge=1, le=3)] | None = None
    sketch_width: Annotated[int, Field(ge=1, le=100_000)] | None = None
    personal: Annotated[tuple[Literal["head"], ...], Field(strict=False, max_length=1)] = ()
    ranks: Annotated[dict[Name, Annotated[int, Field(ge=1, le=1024)]], Field(max_length=64)] = Field(
        default_factory=dict
    )

    @model_serializer(mode="wrap")
    def _counted(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(handler(self), "kmers", None)

    def rank_of(self, site: str) -> int:
        """Return the rank that *site* trains."""
        return self.ranks.get(site, self.lora.rank)

    def of_rank(self, rank: int) -> AdapterSpec:
        """Return the same with factors of *rank*."""
        return self.model_copy(update={"lora": self.lora.model_copy(update={"rank": rank})})


class Federation(Limits):
    """The rounds, the server's part in them, and how much sites count (None: alike).

    With ``stop``, ``rounds`` is the most that there are.
    """

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    server: Server = Field(default_factory=Server)
    stop: Stop | None = None
    weights: Weights | None = None


class Release(Strict):
    """What the adapter's card says beside the figures, and what it must reach to be published.

    ``min_metric`` is the least value of the task's metric on data that nobody trained on; None asks for none.
    """

    license: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    data: Sentence
    intended_use: Sentence
    limitations: Sentence
    min_metric: Annotated[float, Field(ge=0, le=1)] | None = None


class Learned(Strict):
    """What an adapter is learned for, from which rows, on which base model."""

    model: ModelRef
    task: AnyTask
    data: Data
    adapter: AdapterSpec

    @property
    def contract(self) -> Contract:
        """The data contract, as the reader of tables takes it."""
        return Contract(self.data.columns, self.task.classes, self.data.max_rows, self.data.label)

    @property
    def max_length(self) -> int:
        """The longest input in tokens, the two special ones included."""
        column = self.data.columns[self.data.input]
        if isinstance(column, SequenceColumn):
            return column.max_length + 2
        assert isinstance(column, TextColumn)
        return column.max_length

    @property
    def input_kind(self) -> str:
        """``"protein"``, ``"nucleotide"``, ``"molecule"`` or ``"text"``."""
        return self.data.columns[self.data.input].type

    def head(self) -> Head:
        """Return the head: what it answers, and each covariate with its vocabulary or bounds."""
        kmers = self.adapter.kmers or DEFAULT_KMERS
        covariates = [covariate_of(name, self.data.columns[name], kmers) for name in self.adapter.covariates]
        label = None if self.data.label is None else self.data.columns[self.data.label]
        return self.task.head(covariates, label)


def _possible(computation: object) -> object:
    if why := impossible(computation):
        raise ValueError(why)
    if not is_method(computation):
        known = ", ".join(sorted({*METHODS, *brought()}))
        raise ValueError(f"no method here is called so; there are {known}")
    return computation


class Recipe(Learned):
    """A fine-tuning recipe. ``computation`` is how factors are combined: docs/recipes.md has the methods."""

    computation: Annotated[str, BeforeValidator(_possible)] = "finetune"
    name: Name
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    training: Training
    federation: Federation
    privacy: Privacy
    release: Release
    bundle: LossBundle | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        refuse(contradictions(dict(self)))
        return self

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return self.federation.rounds


def contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each contradiction between those *sections* of a recipe that are given."""
    task, data, adapter = sections.get("task"), sections.get("data"), sections.get("adapter")
    if task:
        yield from ((("task", *path), what) for path, what in task.contradictions())
    if data:
        yield from _data(data, task)
        yield from _patient(data)
    if data and adapter:
        yield from _covariates(data, adapter)
    if task and data and adapter:
        yield from _fit(task, data, adapter)
    release = sections.get("release")
    if task and release and release.min_metric is not None and task.fewer_is_better:
        yield ("release", "min_metric"), f"of {task.metric} less is better; choose another metric for this"
    federation, privacy = sections.get("federation"), sections.get("privacy")
    if federation and privacy:
        yield from masked_limits(federation, privacy)
    if privacy:
        yield from unit_limits(privacy)
        yield from audit_limits(privacy)
    if privacy and data and privacy.unit == "patient" and data.patient is None:
        yield ("data", "patient"), "unit: patient needs the name of an identifier column"
    if privacy:
        yield from loss_contradictions(sections.get("bundle"), privacy)
    training = sections.get("training")
    if task and training and task.own_head != "none" and training.lora_lr == 0:
        yield ("training", "lora_lr"), f"is 0, and a {task.kind} task trains nothing but factors"
    yield from training_contradictions(sections)
    yield from server_contradictions(sections)
    yield from stop_contradictions(sections)
    yield from weight_contradictions(sections)
    yield from method_contradictions(sections)


def _fit(task: Task, data: Data, adapter: AdapterSpec) -> Iterator[tuple[Location, str]]:
    label = None if data.label is None else data.columns.get(data.label)
    read = data.columns.get(data.input)
    fits = label.type in task.label_types if label is not None else not task.label_types
    if fits and read is not None:
        yield from task.misfits(
            label=label, read=data.input, reads=read.type, covariates=list(adapter.covariates)
        )


def _data(data: Data, task: Task | None) -> Iterator[tuple[Location, str]]:
    labels = ("label", "number", "residue_labels", "text") if task is None else task.label_types
    if not labels and data.label is not None:
        yield ("data", "label"), f"names {data.label!r}, but the task has no label; leave it out"
    for role, types in (("input", ("protein", "nucleotide", "molecule", "text")), ("label", labels)):
        name = getattr(data, role)
        if not types:
            continue
        if name is None:
            yield ("data", role), f"names no column; the task needs one of type {' or '.join(types)}"
            continue
        column = data.columns.get(name)
        if column is None:
            yield ("data", role), f"names the column {name!r}, which data.columns does not hold"
        elif column.type not in types:
            what = f"the column {name!r} is of type {column.type}, {role} needs {' or '.join(types)}"
            yield ("data", role), what
        elif column.missing == "allowed" or not column.required:
            yield ("data", "columns", name), f"the {role} column must be required, with missing: refused"
    for name, column in data.columns.items():
        is_label = isinstance(column, LabelColumn | ResidueLabelsColumn)
        if is_label and name != data.label and data.label in data.columns:
            yield ("data", "columns", name), f"a second label column; data.label names {data.label!r}"
        if not isinstance(column, ResidueLabelsColumn):
            continue
        if not isinstance(data.columns.get(column.of), ProteinColumn):
            yield ("data", "columns", name, "of"), f"{column.of!r} is no protein column of data.columns"
    if data.cohort is not None:
        yield from cohort_problems(data.cohort, data.columns)


def _patient(data: Data) -> Iterator[tuple[Location, str]]:
    if data.patient is None:
        if data.holdout is not None and data.holdout.by == "patient":
            yield ("data", "patient"), "holdout by patient needs the name of an identifier column"
        return
    column = data.columns.get(data.patient)
    if column is None:
        yield ("data", "patient"), f"names the column {data.patient!r}, which data.columns does not hold"
    elif not isinstance(column, IdentifierColumn):
        yield ("data", "patient"), f"the column {data.patient!r} is of type {column.type}, not identifier"
    elif column.missing == "allowed" or not column.required:
        yield ("data", "columns", data.patient), "the patient column must be required, with missing: refused"


def _covariates(data: Data, adapter: AdapterSpec) -> Iterator[tuple[Location, str]]:
    known = [data.columns.get(name) for name in adapter.covariates]
    if adapter.kmers is not None and not any(isinstance(one, SEQUENCES) for one in known):
        what = (
            "counts words of a sequence, and no covariate is one: list the column in adapter.covariates, too"
        )
        yield ("adapter", "kmers"), what
    for index, name in enumerate(adapter.covariates):
        column = data.columns.get(name)
        path: Location = ("adapter", "covariates", index)
        if column is None:
            yield path, f"names the column {name!r}, which data.columns does not hold"
        elif not isinstance(column, CAN_BE):
            kinds = "a category, a number, a protein, a nucleotide sequence or a molecule"
            yield path, f"the column {name!r} is of type {column.type}, a covariate is {kinds}"
        elif name == data.label:
            yield path, f"the column {name!r} is what is predicted"
        elif name in adapter.covariates[:index]:
            yield path, f"the column {name!r} is listed twice"
