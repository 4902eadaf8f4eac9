"""``plasmid recipes estimate``: what a run would take, before it starts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, plain, reply
from plasmid.cli.recipe_options import RecipeArgument, SeedOption, SetOption, parse_overrides
from plasmid.core.files import home
from plasmid.recipes.load import load_recipe
from plasmid.recipes.sites import materialise_sites

_PARTS = {
    "federation": "starting coordinator and sites",
    "admission": "admission and key epoch",
    "first_round": "workers start, and what is computed once",
    "rounds": "rounds",
    "baselines": "baselines",
}


def estimate(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    seed: SeedOption = None,
    sites: Annotated[Path | None, typer.Option(help="One CSV file per site, instead of its data")] = None,
    probe: Annotated[bool, typer.Option(help="Start workers and time some steps")] = True,
    form: FormatOption = Format.text,
) -> None:
    """Estimate a run: values, bytes, memory, time, epsilon. Some steps are computed here, nothing is sent.

    Each figure says whether it is exact, measured or computed. To measure,
    workers start on the largest table, in their sandbox, and some steps are
    timed; nothing is sent or charged. The time is that of all sites on this
    machine while it is as busy as now. With --no-probe there is no time, and
    CPU memory is computed.
    """
    with reply(form, extra="worker") as answer, tempfile.TemporaryDirectory() as folder:
        resolved = load_recipe(recipe, overrides=parse_overrides(overrides), seed=seed)
        tables: dict[str, Path] = {}
        if resolved.parsed.data.split is not None or sites is not None:
            tables = materialise_sites(resolved, Path(folder), sites)
        answer.data |= {"name": resolved.parsed.name, "digest": resolved.digest}
        answer.say(plain(f"{resolved.parsed.name}, digest {resolved.digest}"))
        tell(resolved.parsed, tables, answer, probe=probe)


def tell(
    document: Any, tables: Mapping[str, Path], answer: Reply, *, probe: bool = True, sites: int | None = None
) -> None:
    """Make and show the estimate of a parsed *document* over *tables*, as ``data["estimate"]``."""
    from plasmid.planning.estimate import estimate as estimated

    if probe and tables and _weights_here(document):
        answer.note("computing some steps to see how long they take ...")
    found = estimated(document, tables, home=home(), sites=sites, probed=probe)
    answer.data["estimate"] = found.as_json()
    bytes_, seconds = found.traffic, found.seconds
    how = "measured" if found.probe is not None and found.probe.peak_bytes else "computed, without rows kept"
    quantization = getattr(getattr(document, "model", None), "quantization", "none")
    held = "float32" if quantization == "none" else f"{quantization} in transformer layers, else float32"
    rows = [
        ("trainable parameters", f"{found.trainable_parameters:,}", "exact"),
        ("up, a round and site", _bytes(bytes_.up), f"{bytes_.bodies_up:,} exact, messages computed"),
        ("down, a round and site", _bytes(bytes_.down), f"{bytes_.bodies_down:,} exact, messages computed"),
        ("memory of a site, CPU", _bytes(found.cpu_bytes), f"worker {how}; gateway 90 MiB, as once measured"),
        ("memory of a site, GPU", _bytes(found.gpu_bytes), "computed, an upper figure; no GPU was asked"),
        ("  the base's weights", _bytes(found.weight_bytes), f"of both, {held}"),
    ]
    if seconds is not None and found.probe is not None:
        how = f"measured: {found.probe.parallel} workers at once, {found.probe.threads} thread(s) each"
        rows.append(("a step", f"{found.probe.step_s:.3g} s", how))
        for name, what in _PARTS.items():
            kind = "computed from the measured steps" if name != "admission" else "computed"
            rows.append((f"  {what}", f"{seconds[name]:.0f} s", kind if name != "federation" else "computed"))
        rows.append(
            ("in all, all sites here", f"{seconds['total']:.0f} s", f"a run of {found.rounds} rounds")
        )
    width, wide = (max(len(row[column]) for row in rows) for column in (0, 1))
    answer.say(*(plain(f"  {what:<{width}}  {value:>{wide}}  {how}") for what, value, how in rows))
    if found.probe is None:
        why = "not asked for." if not probe else "the weights are not here." if found.missing else _WHY
        answer.say(plain("  Memory was not measured, and there is no time: " + why))
    if found.epsilon is not None:
        answer.say(
            f"  epsilon {found.epsilon:g} at delta {found.delta:g} for each {document.privacy.unit}, "
            "for the whole run"
        )
        for one in found.budgets:
            left = "has no budget" if one.left is None else f"has epsilon {one.left:g} left"
            short = one.left is not None and one.left < found.epsilon
            answer.say(
                plain(f"  {one.site}: population {one.population} {left}{': too little' if short else ''}")
            )
    for lack in found.missing:
        answer.say(plain(f"  missing to run here: {lack}"))


def _weights_here(document: Any) -> bool:
    from plasmid.bases.catalogue import Entry, about

    model = getattr(document, "model", None)
    return model is None or isinstance(about(model.base), Entry)


_WHY = "they need rows to train on; give --sites DIR. A recipe's own Python also needs a sandbox."


def _bytes(count: int | None) -> str:
    if count is None:
        return "not known"
    return f"{count / 2**20:,.0f} MiB" if count >= 10 * 2**20 else f"{count:,} B"
