"""How good an adapter is on the sites' own rows: questions over secure sums, and what is kept of them.

Rules
-----
1. An evaluation is a run of its own, in the same project, with its own plan, approvals and charges.
2. What is kept says which run it was, over whom, on which rows, and what that promised; it is signed with the
   rest of the folder by whoever fetched it, not by the sites.
3. A temperature is kept as ``calibration.json`` beside the adapter (:mod:`plasmid.adapters.artifact`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from plasmid.adapters.adapter import Vector
from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.files import HeadFile
from plasmid.bases.store import ensure_model
from plasmid.cli.output import Reply
from plasmid.client.api import Coordinator
from plasmid.client.embedded import Embedded
from plasmid.client.launch import check_project, federation, plan_and_run
from plasmid.client.run import Run
from plasmid.computations.api import given_digest
from plasmid.computations.evaluate import record_norm
from plasmid.core.files import home
from plasmid.recipes.evaluation import DEFAULT_BINS, EvaluationDocument, evaluation_from_recipe
from plasmid.recipes.gain import GRID, GainDocument, gain_from_recipe
from plasmid.recipes.load import ResolvedRecipe
from plasmid.recipes.query import noised
from plasmid.recipes.sites import materialise_sites

Rows = Literal["holdout", "all"]
Measure = Literal["scores", "temperature", "gain"]


def evaluated(
    at: Coordinator,
    embedded: Embedded | None,
    recipe: ResolvedRecipe,
    about: HeadFile,
    state: Vector,
    *,
    rows: Rows,
    answer: Reply,
    measure: Measure = "scores",
    bins: int = DEFAULT_BINS,
    grid: tuple[float, ...] | None = None,
    personal: str | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    invited: Sequence[str] | None = None,
    project: str | None = None,
    yes: bool = False,
) -> dict[str, Any]:
    """Run one evaluation to its end and return what is kept of it, as JSON values.

    Parameters
    ----------
    recipe
        What the adapter was trained by: its data contract is the sites' one.
    about, state
        The adapter: ``head.json``, and its numbers, float32 [adapter size].
    grid, personal
        Of ``gain``: the edges of its cells (None: the default ones), and the run whose personal adapters are
        judged in place of this one.
    epsilon, delta
        Differential privacy for one record; both or none. Of ``gain``, for the recipe's unit.

    Raises
    ------
    RecipeError
        ``recipe.evaluation``: the adapter is another recipe's.
    UsageError
        ``usage.query_privacy``, ``usage.not_confirmed``.
    RunFailed, LinkError
        As :func:`plasmid.client.launch.plan_and_run`.
    """
    of: dict[str, Any] = {
        "lora": about.lora,
        "head": about.head,
        "base": about.base.digest,
        "quantization": about.base.quantization,
        "given": given_digest(state),
    }
    asked: EvaluationDocument | GainDocument
    if measure == "gain":
        noised(epsilon, delta)
        asked = gain_from_recipe(
            recipe.recipe, **of, run=personal, grid=grid or GRID, epsilon=epsilon, delta=delta
        )
    else:
        privacy = noised(epsilon, delta, record_norm(measure))
        asked = evaluation_from_recipe(
            recipe.recipe, **of, rows=rows, measure=measure, bins=bins, privacy=privacy
        )
    document = asked.model_dump(mode="json")
    at.give(state)
    done = plan_and_run(
        at,
        embedded,
        document,
        invited=list(invited) if invited else None,
        project=project,
        yes=yes,
        answer=answer,
    )
    return kept(done)


def kept(done: Run) -> dict[str, Any]:
    """Return what is kept of an evaluation that SUCCEEDED."""
    result = done.result()
    return {
        "run": done.id,
        "recipe": result["digest"],
        "participants": result["participants"],
        **result["answer"],
        "noise_std": result["noise_std"],
        "privacy": done.privacy(),
    }


def of_adapter(
    folder: Path,
    recipe: ResolvedRecipe,
    *,
    sites_dir: Path | None,
    url: str | None,
    project: str | None,
    passphrase_file: Path | None,
    port: int,
    answer: Reply,
    **asked: Any,
) -> dict[str, Any]:
    """Evaluate the adapter in *folder* at *url*, or at embedded sites; *asked* as :func:`evaluated`."""
    check_project(url, project)
    adapter = read_adapter(folder)
    base = ensure_model(
        adapter.about.base.id, revision=adapter.about.base.revision, digest=adapter.about.base.digest
    )
    _, state = adapter.on(base)
    work = home() / "data" / recipe.recipe.name
    tables = {} if url else materialise_sites(recipe, work, sites_dir)
    with federation(
        url, tables, sites_dir=sites_dir, port=port, answer=answer, passphrase_file=passphrase_file
    ) as (at, embedded):
        found = evaluated(at, embedded, recipe, adapter.about, state, project=project, answer=answer, **asked)
    answer.say(*lines(found))
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return what an evaluation says, for people."""
    if found["measure"] == "gain":
        return _gain_lines(found)
    where = "rows that no site trained on" if found["rows"] == "holdout" else "rows of the sites"
    told = [f"{found['count']:,} {where}, at {found['sites']} sites"]
    if found["measure"] == "temperature":
        if found["temperature"] is not None:
            told.append(f"temperature {found['temperature']:.3f}")
    else:
        for name in ("auc", "accuracy"):
            if found[name] is not None:
                low, high = found[f"{name}_interval"]
                told.append(
                    f"{name} {found[name]:.3f} ({low:.3f} to {high:.3f}, 95 %, of the sampling alone)"
                )
        if found["calibration_error"] is not None:
            told.append(f"calibration error {found['calibration_error']:.3f}")
    if found["suppressed"]:
        told.append(
            f"{found['suppressed']} cells were suppressed at some site, and all figures are without them: "
            "ask for fewer --bins, or give --epsilon and --delta, for noise instead"
        )
    return told


def _gain_lines(found: Mapping[str, Any]) -> list[str]:
    what = "the adapter" if found["personal"] is None else f"their own adapters of {found['personal']}"
    told = [f"{found['gaining']} of {found['answered']} sites gain by {what}, in {found['metric']}"]
    told.append("on rows that nobody trained on, against what each learns alone in as many steps")
    if found["median"] is not None:
        low, high = found["median"]
        told.append(
            "the median gain is "
            + (f"up to {high:+g}" if low is None else f"above {low:+g}")
            + ("" if low is None or high is None else f" and up to {high:+g}")
        )
    if found["cannot_say"]:
        told.append(
            f"{found['cannot_say']} sites cannot say: too few rows held out, or no adapter of their own"
        )
    if found["noise_std"]:
        told.append(f"each number of sites carries noise of a standard deviation of {found['noise_std']:.2f}")
    return told
