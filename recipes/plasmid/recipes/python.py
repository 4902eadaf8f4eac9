"""The Python that a recipe may carry: a *bundle*.

Rules
-----
1. The code is part of the document as text, so that the digest covers it: the bytes that are approved, that
   travel and that run are the same. Files have flat names, at most :data:`MAX_BYTES` in all.
2. What an approver reads is what runs: characters that a reader does not see are refused.
3. A bundle gives one site half, a function called like it, or a stock Flower ``ClientApp``. It holds none of
   clip, noise and ledger.
4. Under a privacy unit nothing may rest on what the code does. So a ``loss``, which shares its process with
   clip and noise of the gradients, goes with ``mechanism: output`` alone: noise for the whole update.
5. A canary audit says nothing about code that could tell canaries from rows, so a bundle has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from plasmid.recipes.columns import Strict
from plasmid.recipes.protection import Location

MAX_BYTES = 256 * 1024
"""The most that all files of a bundle take together, UTF-8."""
MAX_FILES = 64
PACKAGE = "plasmid_bundle"
"""The package whose modules the files are while they run, where the recipe names no other."""

Module = Annotated[str, StringConstraints(pattern=r"^_?[a-z][a-z0-9_]{0,61}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^_?[a-z][a-z0-9_]{0,61}\.py$")]
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]
Text = Annotated[str, StringConstraints(max_length=MAX_BYTES)]
Setting = bool | int | float | str

_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    "|[\U000e0000-\U000e007f]|\r(?!\n)"
)
"""Characters that move, hide or overwrite others on a screen (CVE-2021-42574)."""
Settings = Annotated[tuple[Setting, ...], Field(strict=False, max_length=10_000)]

APP = "app"
"""What the entry of ``half: flower`` defines, as Flower's own apps do."""


def defined_by(half: object) -> object:
    """Return the name that the entry of a bundle with *half* must define; what is no half is its own name."""
    return APP if half == "flower" else half


class Code(Strict):
    """The code of a recipe.

    Attributes
    ----------
    files
        Text by file name, read from the recipe's folder ``bundle`` when it is resolved.
    entry
        The module among them that defines the function called like the half; of ``flower``, :data:`APP`.
    package
        The package whose modules they are: they import one another relatively, or by its name.
    settings
        Public constants that the function is given.
    """

    files: Annotated[dict[FileName, Text], Field(min_length=1, max_length=MAX_FILES)]
    entry: Module
    package: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,61}$")] = PACKAGE
    settings: Annotated[dict[SettingName, Setting | Settings], Field(max_length=100)] = Field(
        default_factory=dict
    )

    @field_validator("files")
    @classmethod
    def _legible(cls, files: dict[str, str]) -> dict[str, str]:
        for name, text in files.items():
            hidden = _HIDDEN.search(text)
            if hidden is not None:
                line = text.count("\n", 0, hidden.start()) + 1
                raise ValueError(
                    f"{name}:{line} holds U+{ord(hidden[0][0]):04X}, which a reader does not see"
                )
        return files

    @field_validator("files")
    @classmethod
    def _small(cls, files: dict[str, str]) -> dict[str, str]:
        size = sum(len(text.encode()) for text in files.values())
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes of Python, {MAX_BYTES} are the most")
        return files

    @model_validator(mode="after")
    def _has_entry(self) -> Code:
        if f"{self.entry}.py" not in self.files:
            raise ValueError(f"its entry is {self.entry}, but there is no {self.entry}.py among its files")
        return self


class LossBundle(Code):
    """``loss(model, batch, settings)`` in place of a fine-tuning recipe's cross entropy."""

    half: Literal["loss"]


def loss_contradictions(bundle: LossBundle | None, privacy: Any) -> Iterator[tuple[Location, str]]:
    """Yield what the Python of a fine-tuning recipe makes impossible in its section *privacy*."""
    if bundle is None:
        return
    if privacy.mechanism in ("dp-sgd", "dp-fedsgd"):
        what = (
            f"{privacy.mechanism} clips gradients in the process that runs the bundle, which could undo it; "
            "use output, which noises the whole update"
        )
        yield ("privacy", "mechanism"), what
    if privacy.audit is not None:
        yield (
            ("privacy", "audit"),
            "a bundle could tell the canaries from rows, so that it would show nothing",
        )
