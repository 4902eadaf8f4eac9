"""The document of ``gain``: what an adapter is worth to each site, as a histogram of sites on a public grid.

Rules
-----
1. ``given`` names the adapter by its digest, as in :mod:`plasmid.recipes.evaluation`. With ``run`` each site
   judges its own adapter of that run instead, and what is given only says of which kind it is.
2. ``training`` is what each site trains alone: the recipe's, with as many steps in all as the adapter had at
   a site. Without noise, whatever the recipe's privacy: what a site trains for itself stays there.
3. A vector is finished, so the one mechanism is ``output``. It covers all records of a site: any unit will
   do.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from plasmid.bases.specs import LoraSpec, Quantization
from plasmid.computations._personal import keeps, personal_parts
from plasmid.core.errors import RecipeError
from plasmid.recipes.evaluation import differences
from plasmid.recipes.protection import Limits, Protection, masked_limits, unit_limits
from plasmid.recipes.question import Question
from plasmid.recipes.schema import Hex256, Learned, Name, Recipe
from plasmid.recipes.training import Training
from plasmid.tasks import Head

GRID = (-0.1, -0.05, -0.03, -0.01, 0.0, 0.01, 0.03, 0.05, 0.1)
MOST_EDGES = 100
LONGEST_S = 604_800.0
_PLAIN = {"first_steps": (), "personal_steps": 0, "proximal": 0.0}
"""What training alone, in one round, leaves out: what counts in rounds."""
RUN = r"^[a-z0-9][a-z0-9-]{0,62}$"
RunName = Annotated[str, StringConstraints(pattern=RUN)]


class GainDocument(Learned, Question):
    """What the adapter *given* is worth to each site.

    Attributes
    ----------
    run
        The run whose personal adapters are judged; None judges the one that is given.
    grid
        The edges of the cells, ascending; one is 0. In the metric's unit.
    least_rows
        A site with fewer rows held out cannot say.
    """

    computation: Literal["gain"]
    name: Name
    given: Hex256
    run: RunName | None = None
    rows: Literal["both"] = "both"
    training: Training
    grid: Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=MOST_EDGES)] = GRID
    least_rows: Annotated[int, Field(ge=2, le=1_000_000)] = 20
    rounds: Literal[1] = 1

    @model_validator(mode="after")
    def _consistent(self) -> GainDocument:
        if self.data.holdout is None:
            raise ValueError(
                "a gain is judged on rows that the data contract holds out, and it holds out none"
            )
        if not _is_grid(self.grid):
            raise ValueError("the grid's edges ascend, and one of them is 0")
        found = [*masked_limits(self.federation, self.privacy), *unit_limits(self.privacy)]
        if self.privacy.mechanism not in (None, "output"):
            found.append(
                (
                    ("privacy", "mechanism"),
                    f"a gain is a finished vector, which {self.privacy.mechanism} cannot protect; use output",
                )
            )
        if found:
            raise ValueError("; ".join(f"{'.'.join(map(str, path))}: {what}" for path, what in found))
        return self


def gain_from_recipe(
    recipe: Recipe,
    *,
    lora: LoraSpec,
    head: Head,
    base: str,
    given: str,
    quantization: Quantization = "none",
    run: str | None = None,
    grid: tuple[float, ...] = GRID,
    epsilon: float | None = None,
    delta: float | None = None,
) -> GainDocument:
    """Return the question what an adapter trained by *recipe* is worth to each site.

    Parameters
    ----------
    lora, head, base
        The adapter's settings, and the digest of its base model: they must be the recipe's.
    quantization
        How the base's weights were held in its training; the recipe's, too.
    epsilon, delta
        Differential privacy, of the recipe's unit or for one record; both or none.

    Raises
    ------
    RecipeError
        ``recipe.evaluation``: the adapter is another recipe's, the recipe holds out no rows, or it has a unit
        and the question has none; or the grid is none.
    """
    problems = list(differences(recipe, lora, head, base, quantization))
    unit = recipe.privacy.unit
    if run is None and personal_parts(recipe):
        problems.append("what was released lacks what each site keeps; name the run with --personal")
    if run is not None and re.fullmatch(RUN, run) is None:
        problems.append(f"{run[:60]!r} is no run's id")
    if run is not None and not keeps(recipe):
        problems.append("a site keeps no adapter of its own by it")
    if recipe.data.holdout is None:
        problems.append("its data section holds out no rows, on which alone a gain can be judged")
    if unit != "none" and epsilon is None:
        problems.append(
            f"it protects one {unit}, and so must what is asked about its rows: give an epsilon and delta"
        )
    if not _is_grid(grid):
        problems.append(
            f"a grid has up to {MOST_EDGES} edges that ascend, and one of them is 0: "
            f"not {', '.join(map(str, grid))[:100]}"
        )
    if problems:
        raise RecipeError(
            "recipe.evaluation",
            f"the adapter cannot be evaluated by the recipe {recipe.name}: {'; '.join(problems)}.",
            "Name the recipe that it was trained by, with the same --set options.",
        )
    own_steps = recipe.training.personal_steps if run else 0
    steps = len(recipe.training.pace(recipe.rounds)) + own_steps
    limits = recipe.federation.model_dump(include=set(Limits.model_fields))
    limits["round_timeout_s"] = min(LONGEST_S, recipe.rounds * recipe.federation.round_timeout_s)
    privacy = Protection(protect=recipe.privacy.protect)
    if epsilon is not None:
        limits["spare_attempts"] = 0
        own = "record" if unit == "none" else unit
        privacy = Protection(unit=own, mechanism="output", epsilon=epsilon, delta=delta)
    return GainDocument(
        computation="gain",
        name=recipe.name,
        model=recipe.model,
        task=recipe.task,
        data=recipe.data.model_copy(update={"split": None}),
        adapter=recipe.adapter.model_copy(update={"personal": (), "sketch_width": None}),
        training=recipe.training.model_copy(update={**_PLAIN, "steps": steps}),
        given=given,
        run=run,
        grid=grid,
        federation=Limits(**limits),
        privacy=privacy,
        seed=recipe.seed,
    )


def _is_grid(grid: tuple[float, ...]) -> bool:
    ascends = all(a < b for a, b in itertools.pairwise(grid))
    return 0.0 in grid and ascends and all(map(math.isfinite, grid)) and len(grid) <= MOST_EDGES
