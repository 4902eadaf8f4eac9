"""A comparison as a picture: a dot and an interval for each row, a line for each baseline. PNG and SVG.

Needs the extra ``plots`` (matplotlib).
"""

from __future__ import annotations

from pathlib import Path

from plasmid.core.files import write_atomic
from plasmid.experiments.comparison import Comparison

_FORMATS = ("png", "svg")
_LINES = ("#777777", "#b07aa1", "#e15759", "#f28e2b", "#59a14f")


def draw(found: Comparison, folder: Path) -> list[Path]:
    """Write ``compare.png`` and ``compare.svg`` into *folder* and return their paths.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(
        figsize=(8.0, 1.6 + 0.35 * (len(found.rows) + len(found.baselines))), layout="constrained"
    )
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    places = range(len(found.rows) - 1, -1, -1)
    for place, row in zip(places, found.rows, strict=True):
        axes.errorbar(row.mean, place, xerr=row.half_width, fmt="o", color="#4e79a7", capsize=4)
        axes.plot(row.values, [place] * len(row.values), "|", color="#4e79a7", markersize=9, alpha=0.6)
    for colour, line in zip(_LINES, found.baselines, strict=False):
        axes.axvline(
            line.mean, color=colour, linestyle="--", linewidth=1.2, label=f"{line.what}: {line.mean:.3f}"
        )
    axes.set_yticks(list(places), [row.what for row in found.rows])
    axes.set_ylim(-0.6, len(found.rows) - 0.4)
    axes.set_xlabel(f"{found.metric}: mean, 95 % interval over seeds, and each seed (simulated)")
    axes.set_title(found.title, fontsize=10)
    if found.baselines:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2, frameon=False)
    made = []
    for form in _FORMATS:
        held = io.BytesIO()
        picture.savefig(held, format=form, dpi=150)
        made.append(folder / f"compare.{form}")
        write_atomic(made[-1], held.getvalue())
    return made
