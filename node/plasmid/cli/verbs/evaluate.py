"""Tell how good an adapter is on a labelled file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasmid.cli.output import Format, FormatOption, reply

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def evaluate(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder")],
    data: Annotated[Path, typer.Option("--data", help="A CSV file with the adapter's columns and labels")],
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Compute the adapter's metric on a labelled file that it was not trained on."""
    with reply(format) as answer:
        from plasmid.training.release import evaluate_file

        found = evaluate_file(adapter, data)
        answer.data |= {"metrics": {"metric": found.metric, "value": found.value}, "rows": found.rows}
        for notice in found.notices:
            answer.note(notice)
        answer.say(f"{found.metric} {found.value:.3f} on {found.rows} rows")
