"""Score the rows of a file with an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasmid.cli.output import Format, FormatOption, reply

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def predict(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder")],
    data: Annotated[
        Path, typer.Option("--data", help="A CSV file with the adapter's columns; others are ignored")
    ],
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Score the rows of a file: the probability of the second of two labels, or of each label."""
    with reply(format) as answer:
        from rich.text import Text

        from plasmid.training.release import predict_file

        scores = predict_file(adapter, data)
        answer.data |= {"scores": scores.as_json(), "labels": list(scores.labels)}
        for notice in scores.notices:
            answer.note(notice)
        lines = [",".join(scores.labels)]
        lines += [",".join(f"{value:.6f}" for value in row) for row in scores.probabilities]
        answer.say(Text("\n".join(lines)))
