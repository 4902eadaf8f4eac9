"""Identifiers in free text are replaced by their kind: ``<EMAIL>``, ``<DATE>``, ``<NAME>``.

Rules
-----
1. Patterns and checksums only: no language model, no network. What they find and how: ``_identifiers.py``.
2. Findings that overlap are replaced as one, so that no piece of a finding stays; it is called by its
   longest.
3. A text that a pattern or checksum cannot get through, or not in time, is replaced as a whole by ``<TEXT>``.
4. Text comes out in Unicode NFC.

**What patterns cannot do.** They find names after a title or a label (``Frau Meier``, ``Name: Meier, Anna``),
and those of ``names_file``; a name that just stands there (``Anna came at noon``) stays. So do addresses,
employers, ages, rare diseases, and everything else by which somebody who knows a person recognises him. A
text that has gone through this is still about a person and is to be protected like one.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, StringConstraints

from plasmid.data.settings import Strict
from plasmid.data.transforms._columns import check_columns, replace_column, text_column
from plasmid.data.transforms._identifiers import ENTITIES, Entity, Finder, Span, finders
from plasmid.data.transforms._lists import read_list
from plasmid.data.transforms.base import Place
from plasmid.recipes.columns import ColumnName

Region = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]

REGIONS = ("DE", "AT", "CH", "GB", "US")


class Settings(Strict):
    """Settings of ``deidentify``.

    Attributes
    ----------
    columns
        The columns of free text.
    entities
        What is replaced; leave ``DATE`` out to keep dates.
    regions
        Countries whose telephone numbers are found without a country's code.
    names_file
        A file of the site with a name a line, of one word or several; found wherever written with a capital.
    """

    columns: Annotated[list[ColumnName], Field(min_length=1, max_length=100)]
    entities: Annotated[tuple[Entity, ...], Field(strict=False, min_length=1)] = ENTITIES
    regions: Annotated[tuple[Region, ...], Field(strict=False, min_length=1, max_length=20)] = REGIONS
    names_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


class Step:
    """Replaces identifiers."""

    name = "deidentify"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._finders: list[Finder] = []
        self._found: Counter[str] = Counter()
        self._texts = self._changed = self._whole = 0

    def describe(self) -> str:
        """Return what it does."""
        columns = ", ".join(map(repr, self._settings.columns))
        kinds = ", ".join(entity for entity in ENTITIES if entity in self._settings.entities)
        return (
            f"In the text of {columns}, what patterns find of {kinds} is replaced by its kind; "
            "names without a title and other hints stay."
        )

    def stability(self, place: Place) -> int | None:  # noqa: ARG002 - one signature
        """Return 1: what a text becomes follows from it alone."""
        return 1

    def prepare(self, place: Place) -> None:
        """Compile the patterns. Raises DataError (``data.transform_column``, ``data.transform_file``)."""
        check_columns(self._settings.columns, place)
        listed = self._settings.names_file
        names = {line for _, line in read_list(place.folder, listed)} if listed else set()
        self._finders = finders(self._settings.entities, self._settings.regions, names)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return *batch* with identifiers replaced. Raises DataError (``data.transform_type``)."""
        for name in self._settings.columns:
            if name in batch.schema.names:
                texts = text_column(name, batch.column(name), "deidentify")
                batch = replace_column(batch, name, self._replaced(pc.utf8_normalize(texts, form="NFC")))
        return batch

    def counts(self) -> dict[str, int]:
        """Return how many texts were seen and changed, and what was replaced in them, by kind."""
        found = {f"{entity} replaced": self._found[entity] for entity in self._settings.entities}
        texts = {
            "texts": self._texts,
            "texts changed": self._changed,
            "texts replaced as a whole": self._whole,
        }
        return texts | found

    def _replaced(self, texts: pa.StringArray) -> pa.StringArray:
        rows = [
            np.flatnonzero(pc.fill_null(pc.match_substring_regex(texts, finder.prefilter), False))
            for finder in self._finders
        ]
        work: dict[int, list[Finder]] = {}
        for finder, hits in zip(self._finders, rows, strict=True):
            for row in hits.tolist():
                work.setdefault(row, []).append(finder)
        changed = {}
        for row, able in work.items():
            before = texts[row].as_py()
            after = self._replace(before, able)
            if after != before:
                changed[row] = after
        self._texts += len(texts) - texts.null_count
        self._changed += len(changed)
        mask = np.zeros(len(texts), bool)
        order = sorted(changed)
        mask[order] = True
        return pc.replace_with_mask(
            texts, pa.array(mask), pa.array([changed[row] for row in order], pa.string())
        )

    def _replace(self, text: str, able: list[Finder]) -> str:
        try:
            found = [(span, finder.entity) for finder in able for span in finder.find(text)]
        except (TimeoutError, ValueError):  # a checksum of letters it does not know may quote them
            self._whole += 1
            return "<TEXT>"
        pieces = []
        done = 0
        for (start, end), entity in merged(found):
            self._found[entity] += 1
            pieces += [text[done:start], f"<{entity}>"]
            done = end
        return "".join([*pieces, text[done:]])


def merged(found: list[tuple[Span, Entity]]) -> list[tuple[Span, Entity]]:
    """Return *found* in order; overlapping spans are one, under the name of the longest."""
    together: list[tuple[Span, Entity, int]] = []
    for (start, end), entity in sorted(found, key=lambda each: (each[0][0], each[0][0] - each[0][1])):
        length = end - start
        if together and start < together[-1][0][1]:
            (first, last), name, longest = together[-1]
            together[-1] = (first, max(last, end)), entity if length > longest else name, max(length, longest)
        else:
            together.append(((start, end), entity, length))
    return [(span, entity) for span, entity, _ in together]
