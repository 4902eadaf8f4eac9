"""The document of ``evaluate``: how good one adapter is on the sites' own rows, from a secure sum.

Rules
-----
1. ``given`` names the adapter by the digest of its numbers (:func:`plasmid.computations.api.given_digest`).
   They travel as the public state of the one round, and every site compares them with it.
2. Model, task, data contract and adapter settings are those of the recipe that the adapter was trained by, so
   that rows are read as they were for training, through the same view.
3. ``rows: holdout`` asks for what the recipe's ``holdout`` keeps from training, and nothing else.
4. ``scores`` counts records by label, predicted label and score, in public cells: AUC, accuracy, confusion
   and calibration follow. ``temperature`` sums slopes of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from plasmid.bases.specs import LoraSpec, Quantization
from plasmid.computations._personal import personal_parts
from plasmid.core.errors import RecipeError
from plasmid.recipes.counts import MAX_CELLS
from plasmid.recipes.protection import Limits, Protection
from plasmid.recipes.question import Question
from plasmid.recipes.schema import Hex256, Learned, Name, Recipe
from plasmid.tasks import Head

DEFAULT_BINS = 40


class EvaluationDocument(Learned, Question):
    """How the adapter *given* does on the sites' rows.

    Attributes
    ----------
    rows
        ``holdout``: what nobody trained on; ``all``: for sites that took no part in training.
    bins
        Cells of the score, per pair of label and predicted label (with two labels: per label).
    """

    computation: Literal["evaluate"]
    name: Name
    given: Hex256
    rows: Literal["holdout", "all"]
    measure: Literal["scores", "temperature"] = "scores"
    bins: Annotated[int, Field(ge=2, le=512)] = DEFAULT_BINS
    rounds: Literal[1] = 1

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationDocument:
        if self.task.kind != "classification":
            raise ValueError(f"scores are counted by label, and a {self.task.kind} has none by row")
        if (self.data.holdout is not None) != (self.rows == "holdout"):
            raise ValueError("rows: holdout goes with a data contract that holds rows out, rows: all without")
        if self.measure == "scores" and math.prod(self.shape) > MAX_CELLS:
            raise ValueError(f"a table has at most {MAX_CELLS} cells; give fewer bins")
        self._check_limits()
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The cells: labels, and for more than two of them predicted labels, by bins of the score."""
        labels = len(self.task.classes)
        return (2, self.bins) if labels == 2 else (labels, labels, self.bins)


def evaluation_from_recipe(
    recipe: Recipe,
    *,
    lora: LoraSpec,
    head: Head,
    base: str,
    given: str,
    quantization: Quantization = "none",
    rows: Literal["holdout", "all"],
    measure: Literal["scores", "temperature"] = "scores",
    bins: int = DEFAULT_BINS,
    privacy: Protection | None = None,
) -> EvaluationDocument:
    """Return the question how good an adapter trained by *recipe* is.

    Parameters
    ----------
    lora, head, base
        The adapter's settings, and the digest of its base model: they must be the recipe's.
    quantization
        How the base's weights were held in its training; the recipe's, too.

    Raises
    ------
    RecipeError
        ``recipe.evaluation``: the adapter is another recipe's, or the recipe holds out no rows.
    """
    problems = list(differences(recipe, lora, head, base, quantization))
    if recipe.task.kind != "classification":
        problems.append(f"scores are counted by label, and a {recipe.task.kind} has none by row")
    if personal_parts(recipe):
        problems.append("what was released lacks what each site keeps; ask for the gain, with its run")
    if rows == "holdout" and recipe.data.holdout is None:
        problems.append("its data section holds out no rows; 'rows: all' is for sites that did not train")
    if problems:
        raise RecipeError(
            "recipe.evaluation",
            f"the adapter cannot be evaluated by the recipe {recipe.name}: {'; '.join(problems)}.",
            "Name the recipe that it was trained by, with the same --set options.",
        )
    limits = recipe.federation.model_dump(include=set(Limits.model_fields))
    if privacy is not None:
        limits["spare_attempts"] = 0  # a spare attempt costs noise, and a question is soon asked again
    data = recipe.data if rows == "holdout" else recipe.data.model_copy(update={"holdout": None})
    return EvaluationDocument(
        computation="evaluate",
        name=recipe.name,
        model=recipe.model,
        task=recipe.task,
        data=data.model_copy(update={"split": None}),
        adapter=recipe.adapter,
        given=given,
        rows=rows,
        measure=measure,
        bins=bins,
        federation=Limits(**limits),
        privacy=privacy or Protection(protect=recipe.privacy.protect),
        seed=recipe.seed,
    )


def differences(
    recipe: Recipe, lora: LoraSpec, head: Head, base: str, quantization: Quantization
) -> Sequence[str]:
    """Return in what an adapter of these settings is not one that *recipe* trains."""
    own = recipe.head()
    found = [
        ("its LoRA settings are others", lora != recipe.adapter.lora),
        (f"its labels are {', '.join(head.classes)[:200]}", head.classes != own.classes),
        (f"its head is of a {head.kind}", head.kind != own.kind),
        ("its covariates are others", head.covariates != own.covariates),
        (
            f"its base model is {base[:12]}, the recipe's {str(recipe.model.digest)[:12]}",
            base != recipe.model.digest,
        ),
        (
            f"it was trained with quantization {quantization}, not {recipe.model.quantization}",
            quantization != recipe.model.quantization,
        ),
    ]
    return [what for what, differs in found if differs]
