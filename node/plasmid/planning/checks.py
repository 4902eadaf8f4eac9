"""What can be known of a recipe, its base model and its rows before anything is trained: all of it at once.

Rules
-----
1. A *problem* would end a run, or its evaluation; a *notice* would not, and makes the result worse than it
   looks.
2. The base model is looked at where it is imported already, or else its outline; nothing is fetched.
3. Findings name layers, labels of the recipe, sites and counts, never a cell. Whoever asks owns every table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.adapters.adapter import ALL_LINEAR, lora_modules
from plasmid.bases.catalogue import described
from plasmid.bases.outline import Outline, missing, outline
from plasmid.bases.store import BaseModel, open_model
from plasmid.core.errors import ModelError, PlasmidError
from plasmid.data.table import Table
from plasmid.planner.attempts import attempt_plan
from plasmid.planning.estimate import budgets
from plasmid.protocol.messages import Planned
from plasmid.recipes.beside import shape_of
from plasmid.recipes.schema import Recipe
from plasmid.recipes.weights import unknown_sites
from plasmid.tasks import Answers
from plasmid.tasks.token_classification import TokenClassification


@dataclass(frozen=True)
class Finding:
    """One thing that was found. ``error`` is a problem's; a notice has none."""

    what: str
    error: PlasmidError | None = None


def problem(error: PlasmidError, where: str = "") -> Finding:
    """Return *error* as a finding."""
    return Finding(f"{where}{': ' if where else ''}{error.message}", error)


def findings(
    recipe: Recipe, tables: Mapping[str, Table], test: Table | None, home: Path
) -> Iterator[Finding]:
    """Yield what is wrong with *recipe* on *tables* (each site's) and *test*; *home* is the state folder."""
    named = recipe.model
    base: BaseModel | None = None
    known = described(named.base)
    try:
        base = open_model(named.base, revision=named.revision, digest=named.digest, verify=False)
    except ModelError as error:
        if error.code == "model.not_imported" and known is not None and named.digest is None:
            base = outline(known)
            yield Finding(
                f"layers and bytes are those of the description of {named.base}; tokens were not checked. "
                + " ".join(missing(base))
            )
        elif error.code == "model.not_imported":
            left_out = "so layers and tokens were not checked ('plasmid models import')"
            yield Finding(f"{named.base} is not imported here, {left_out}")
        else:
            yield problem(error)
    if base is not None:
        yield from of_base(recipe, base, len(tables))
        if not isinstance(base, Outline):
            yield from of_tokens(recipe, base, tables, test)
    yield from of_names(recipe, tables)
    yield from of_labels(recipe, tables, test)
    yield from of_budgets(recipe, home)


def of_base(recipe: Recipe, base: BaseModel, sites: int) -> Iterator[Finding]:
    """Yield what of the adapter does not fit *base*, or so many sites."""
    from plasmid.computations import api

    lora, sound = recipe.adapter.lora, True
    for part in ({"layers": None}, {"targets": (ALL_LINEAR,)}):  # each by itself: one does not hide the other
        try:
            lora_modules(base, lora.model_copy(update=part))
        except ModelError as error:
            sound = False
            yield problem(error)
    meant = lora if sound else lora.model_copy(update={"layers": None, "targets": (ALL_LINEAR,)})
    modules = lora_modules(base, meant)
    small = [module for module in modules if lora.rank > min(module.inputs, module.outputs)]
    if small if sound else len(small) == len(modules):
        least = min(min(module.inputs, module.outputs) for module in small)
        yield problem(
            ModelError(
                "model.rank",
                f"adapter.lora.rank {lora.rank} is above the size of {len(small)} layers, "
                f"the smallest has {least}.",
                f"Set it to {least} at most: a product of that rank says all that can be said.",
            )
        )
    longest = base.config.get("max_position_embeddings")
    if (
        base.config.get("position_embedding_type", "absolute") == "absolute"
        and longest
        and recipe.max_length > longest
    ):
        what = f"inputs of {recipe.max_length} tokens, but {base.id} has positions for {longest}."
        yield problem(ModelError("model.too_long", what, "Lower max_length in the recipe's data section."))
    if sites and sound:
        try:
            c = max(1, recipe.federation.colluding_organisations)
            shape = shape_of(api.load(recipe.computation), recipe, base)
            planned = Planned(sites=sites, c=c, noise_rate=1.0 if recipe.privacy.shares_noise else 0.0)
            attempt_plan(recipe, shape, sites=sites, c=c, planned=planned)
        except PlasmidError as error:
            yield problem(error)


def of_names(recipe: Recipe, tables: Mapping[str, Table]) -> Iterator[Finding]:
    """Yield which sites the recipe speaks of and nobody is."""
    for what in unknown_sites(recipe, tables) if tables else ():
        yield Finding(f"{what}, which is no site here; a run of these sites is refused")


def of_tokens(
    recipe: Recipe, base: BaseModel, tables: Mapping[str, Table], test: Table | None
) -> Iterator[Finding]:
    """Yield which tables hold inputs that the model reads in part only."""
    if not tables and test is None:
        return
    from plasmid.bases.tokenizing import Tokenizer

    try:
        tokenizer = Tokenizer(base)
    except ModelError as error:
        yield problem(error)
        return
    for site, table in _every(tables, test).items():
        texts = [str(cell) for cell in table.columns[recipe.data.input]]
        longer, unknown = tokenizer.measure(texts, recipe.max_length)
        if longer:
            yield Finding(
                f"{site}: {longer} of {len(texts)} inputs take more than {recipe.max_length} tokens; "
                "their ends are cut"
            )
        if unknown:
            yield Finding(
                f"{site}: {unknown} of {len(texts)} inputs hold something that {base.id} has no token for"
            )


def of_labels(recipe: Recipe, tables: Mapping[str, Table], test: Table | None) -> Iterator[Finding]:
    """Yield what the labels of the sites and of the test do not allow."""
    column, batch = recipe.data.label, recipe.training.batch
    if column is None:
        return
    seen = {site: _labels(recipe, table.columns[column]) for site, table in tables.items()}
    for site, counts in seen.items():
        if len(counts) == 1:
            yield Finding(
                f"{site}: all of its {tables[site].rows} rows have the same label; it teaches no difference"
            )
        if recipe.privacy.unit == "none" and tables[site].rows < batch:
            yield Finding(
                f"{site}: {tables[site].rows} rows are fewer than training.batch {batch}; it has one batch"
            )
    if len(tables) > 1:
        for label in getattr(recipe.task, "labels", ()):
            having = [site for site, counts in seen.items() if counts[label]]
            if not having:
                yield Finding(f"label {label!r} is at no site")
            elif len(having) == 1:
                yield Finding(
                    f"label {label!r} is at {having[0]} alone: what the adapter says of it comes from there"
                )
    if test is not None and recipe.task.own_head == "none":
        try:
            recipe.head().score(recipe.task.metric, _answers(recipe, test), test.columns[column])
        except PlasmidError as error:
            yield problem(error, f"the test has no {recipe.task.metric}")


def of_budgets(recipe: Recipe, home: Path) -> Iterator[Finding]:
    """Yield which sites on this machine have too little left of epsilon."""
    for one in budgets(recipe, home):
        if one.left is not None and recipe.privacy.epsilon is not None and one.left < recipe.privacy.epsilon:
            yield Finding(
                f"{one.site}: population {one.population} has epsilon {one.left:g} left, "
                f"the recipe costs {recipe.privacy.epsilon:g}"
            )


def _every(tables: Mapping[str, Table], test: Table | None) -> dict[str, Table]:
    return {**tables, **({} if test is None else {"test": test})}


def _answers(recipe: Recipe, table: Table) -> Answers:
    """Return answers that say nothing, to see whether the metric has a value on *table*."""
    cells, width = table.columns[str(recipe.data.label)], recipe.head().width
    if not isinstance(recipe.task, TokenClassification):
        return Answers(np.zeros((len(cells), width), np.float32))
    starts = np.concatenate([[0], np.cumsum([len(str(cell)) for cell in cells])]).astype(np.int64)
    return Answers(np.zeros((int(starts[-1]), width), np.float32), starts)


def _labels(recipe: Recipe, cells: list[Any]) -> Counter[Any]:
    """Return how often each label is in *cells*: of residues, each residue's."""
    if isinstance(recipe.task, TokenClassification):
        return Counter(letter for cell in cells for letter in str(cell) if letter in recipe.task.labels)
    return Counter(cells)
