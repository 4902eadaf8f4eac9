"""Base models whose weights are not here: what of them can be known, so that a run can be planned.

Rules
-----
1. Names and shapes are those of the class of transformers that would hold the weights, made of the
   description's settings on torch's ``meta`` device: no memory is taken and nothing is fetched.
2. That needs torch, so a child process does it; whoever plans imports none.
3. An outline has neither revision nor digest. What needs a weight refuses it.

``python -m plasmid.bases.outline ID`` writes names and shapes of a described model as JSON.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from plasmid.bases.architectures import AUTO, architecture, architecture_name
from plasmid.bases.catalogue import Described, described, models_folder, not_here
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.bases.tensors import TensorInfo, read_header
from plasmid.core.errors import ModelError

OUTLINE_TIMEOUT_S = 300
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Outline(BaseModel):
    """A described base model. Digest and revision are empty, its ``path`` is where it would be."""

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        """The tensors that its weights have, float32, by name; their places mean nothing."""
        shapes = _of_child(self.id)
        return {name: TensorInfo("F32", shape, 0, 4 * prod(shape)) for name, shape in shapes.items()}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What the description says of ``config.json``."""
        known = described(self.id)
        assert known is not None, "an outline is of a description"
        return known.config


def planned_model(model_id: str, *, revision: str | None, digest: str | None) -> BaseModel:
    """Return the base model, or its outline where it is described and no weights are here.

    Raises
    ------
    ModelError, HubError
        As :func:`plasmid.bases.store.ensure_model`, but for a described model that no digest pins;
        ``model.import_failed``: no outline could be made.
    """
    try:
        return ensure_model(model_id, revision=revision, digest=digest)
    except ModelError as error:
        known = described(model_id)
        if error.code != "model.not_imported" or known is None or digest is not None:
            raise
    return outline(known)


def outline(known: Described) -> Outline:
    """Return the outline of a described model."""
    return Outline(known.id, "", "", models_folder() / known.id, known)


def missing(base: BaseModel) -> tuple[str, ...]:
    """Return what is missing to run *base* on this machine, a sentence each; nothing for one that is here."""
    known = described(base.id)
    if not isinstance(base, Outline) or known is None:
        return ()
    error = not_here(known)
    return (f"{error.message} {error.hint}",)


def shapes_of(known: Described) -> Shapes:
    """Return the shapes of the trained tensors of *known* by name: those that an import keeps of it.

    Raises
    ------
    ModelError
        ``model.architecture_unknown``; ``model.refused``: transformers makes nothing of its settings.
    """
    import torch
    import transformers

    from plasmid.encoders.loading import quiet

    where = architecture(known.architecture)
    settings: Any = transformers.AutoConfig
    made: Any = getattr(transformers, AUTO[where.head])
    try:
        with torch.device("meta"), quiet():
            config = settings.for_model(**known.config)
            whole = made.from_config(config, **({"add_pooling_layer": False} if where.pooler else {}))
    except Exception as error:  # whatever a class of transformers makes of settings that are none of its own
        raise ModelError(
            "model.refused",
            f"no {where.encoder_class} can be made of the settings of {known.id}: {type(error).__name__}.",
            "Correct its description.",
        ) from error
    named = {name: tuple(value.shape) for name, value in whole.named_parameters()}
    return {name: shape for name, shape in named.items() if not name.startswith(where.unused)}


def check_outline(known: Described, model_type: str, folder: Path) -> None:
    """Raise ModelError (``model.not_described``) unless the matrices in *folder* have the shapes of *known*.

    Norms and biases have other names in older checkpoints; whether all are there is seen when it is loaded.
    """
    header = read_header(folder / "model.safetensors")
    found = {name: info.shape for name, info in header.items() if len(info.shape) == 2}
    wanted = {name: shape for name, shape in shapes_of(known).items() if len(shape) == 2}
    wrong = sorted(name for name, shape in wanted.items() if found.get(name) != shape)
    layers = architecture(known.architecture).layers
    more = sorted(name for name in found.keys() - wanted.keys() if name.startswith(f"{layers}."))
    own = architecture_name(model_type, known.own_head)
    if own != known.architecture or wrong or more:
        what = ", ".join((wrong + more)[:3]) if own == known.architecture else f"its architecture, {own}"
        raise ModelError(
            "model.not_described",
            f"the weights are not those that the catalogue describes as {known.id} ({known.repo}): {what}.",
            "Import them under another --id NAME, and name that in the recipe.",
        )


@functools.cache
def _of_child(model_id: str) -> Shapes:
    child = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "plasmid.bases.outline", model_id],
        capture_output=True,
        text=True,
        timeout=OUTLINE_TIMEOUT_S,
        check=False,
    )
    if child.returncode:
        raise ModelError(
            "model.import_failed",
            f"no outline of {model_id} could be made (status {child.returncode}).",
            f"Run 'python -m plasmid.bases.outline {model_id}' to see why.",
        )
    return {name: tuple(shape) for name, shape in json.loads(child.stdout).items()}


def main(arguments: list[str]) -> int:
    """Write the shapes of one described model; return the exit status."""
    known = described(arguments[0]) if len(arguments) == 1 else None
    if known is None:
        sys.stderr.write("usage: python -m plasmid.bases.outline ID, of a model that is described\n")
        return 2
    json.dump(shapes_of(known), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
