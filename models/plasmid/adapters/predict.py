"""Answers from an adapter's folder.

Rules
-----
1. One adapter alone is folded into the weights of its base, W + alpha / rank * B A: rows then cost what
   they cost without an adapter. The result is that of the factors beside the weights, to the rounding of
   float32. Weights in 4 bits stay so, with the factors beside them: what was trained over such weights is
   answered, and judged, over them.
2. Rows of like length share a batch, so that little of it is padding; each row is independent of the
   others.
3. Logits are divided by the adapter's temperature, where it has one. Everything is float32. What they
   answer is the head's to say (:mod:`plasmid.tasks`).
4. What is longer than the adapter's ``max_length`` is cut, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasmid.adapters.adapter import Vector
from plasmid.adapters.artifact import Adapter, read_adapter, read_head
from plasmid.adapters.files import HeadFile
from plasmid.bases.specs import Cell
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.tasks import Answers

if TYPE_CHECKING:
    from plasmid.encoders.batches import Rows

BATCH_ROWS = {"cpu": 64}
"""Rows that go through the model together, by kind of device."""
OTHER_BATCH_ROWS = 512


@dataclass(frozen=True)
class Predicted:
    """What an adapter says of some rows.

    Attributes
    ----------
    answers
        Probabilities, say, in the order of the head's labels.
    cut
        How many rows had more tokens than the adapter reads.
    """

    answers: Answers
    cut: int


class Predictor:
    """The adapter on its base, ready for rows. Make one with :meth:`load` where it is in a folder.

    Parameters
    ----------
    base
        None opens the one that the adapter names.
    device
        None is a GPU if there is one, else the CPU.
    batch_rows
        Rows that go through the model together; None follows from the device.

    Raises
    ------
    ModelError
        The adapter doesn't fit its base, or the base isn't there or differs.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        base: BaseModel | None = None,
        device: str | None = None,
        batch_rows: int | None = None,
    ) -> None:
        import torch

        from plasmid.encoders.encoder import AdaptedModel
        from plasmid.lora.layer import LoraLinear
        from plasmid.lora.packed import PackedLinear

        self.about = adapter.about
        self._base = base or _base_of(self.about)
        _, state = adapter.on(self._base)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_rows = batch_rows or BATCH_ROWS.get(torch.device(self.device).type, OTHER_BATCH_ROWS)
        self._model = AdaptedModel.load(
            self._base,
            self.about.lora,
            self.about.head,
            device=self.device,
            quantization=self.about.base.quantization,
        )
        self._model.set_state(state)
        layers = [
            (path, one) for path, one in self._model.encoder.named_modules() if isinstance(one, LoraLinear)
        ]
        for path, layer in layers:
            if isinstance(layer.frozen, PackedLinear):
                continue
            parent, _, name = path.rpartition(".")
            setattr(self._model.encoder.get_submodule(parent), name, _folded(layer))

    @classmethod
    def load(cls, folder: Path, *, device: str | None = None, batch_rows: int | None = None) -> Predictor:
        """Return the one in *folder*; what is not its base's is refused before a tensor is read.

        Raises
        ------
        ModelError
            As :func:`plasmid.adapters.artifact.read_adapter`, :func:`plasmid.adapters.fitting.check_fits` and
            the class.
        """
        from plasmid.adapters.fitting import check_fits

        about = read_head(folder)
        base = _base_of(about)
        check_fits(about, folder, base)
        return cls(read_adapter(folder), base=base, device=device, batch_rows=batch_rows)

    def predict(self, columns: Mapping[str, Sequence[Cell]]) -> Predicted:
        """Return what the adapter says of *columns*: its input column and its covariates, by name.

        Raises
        ------
        ModelError
            ``model.tokenizer_unknown``.
        DataError
            A column is missing or holds something else than its type.
        """
        import torch

        most = self.about.max_length
        rows = self._model.encode(columns, input_column=self.about.input, max_length=most)
        temperature = self.about.temperature or 1.0
        with torch.inference_mode():
            found = self._model.answers(rows, temperature=temperature, batch_rows=self._batch_rows)
        return Predicted(found, self._cut(rows, columns[self.about.input]))

    def _cut(self, rows: Rows, texts: Sequence[Cell]) -> int:
        """Return how many of *texts* have more tokens than are in *rows*: only full ones can."""
        most = self.about.max_length
        full = [str(texts[row]) for row in np.flatnonzero(rows.lengths == most).tolist()]
        return sum(length > most for length in self._model.lengths(full, most + 1))

    def score(self, columns: Mapping[str, Sequence[Cell]]) -> float:
        """Return the adapter's metric on *columns*: what it reads, and its label column if it has one.

        Raises
        ------
        ModelError, DataError
            As :meth:`predict`; the metric has no value on these rows.
        """
        import torch

        about = self.about
        if about.metric not in about.head.loss_metrics:
            cells = () if about.label is None else columns[about.label]
            return about.head.score(about.metric, self.predict(columns).answers, cells)
        rows = self._model.encode(
            columns, input_column=about.input, max_length=about.max_length, label_column=about.label
        )
        with torch.inference_mode():
            return about.head.of_losses(about.metric, self._model.losses(rows, batch_rows=self._batch_rows))


def _base_of(about: HeadFile) -> BaseModel:
    return ensure_model(about.base.id, revision=about.base.revision, digest=about.base.digest)


def _folded(layer: Any) -> Any:
    """Return the plain linear layer that does what *layer*, with LoRA factors, does."""
    import torch

    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    with torch.no_grad():
        update = layer.scale * (layer.lora_up.mT @ layer.lora_down)
        plain.weight = torch.nn.Parameter(layer.weight + update, requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()


def predict(
    adapter: Adapter | Path, columns: Mapping[str, Sequence[Cell]], *, device: str | None = None
) -> Vector:
    """Return what the adapter says, float32 [rows, width]: for each label in order its probability, say.

    Where it answers for each token, these are those of all rows back to back: [tokens, width].

    Parameters
    ----------
    columns
        Values by column name: the adapter's input column and its covariates.
    device
        None is a GPU if there is one, else the CPU.

    Raises
    ------
    ModelError
        The adapter is not sound or doesn't fit its base, or the base isn't there or differs.
    DataError
        A column is missing or holds something else than its type.
    """
    if isinstance(adapter, Path):
        return Predictor.load(adapter, device=device).predict(columns).answers.values
    return Predictor(adapter, device=device).predict(columns).answers.values
