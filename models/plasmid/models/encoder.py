"""A base model with an adapter on it: encoder, LoRA factors, one linear head.

Rules
-----
1. logits = W · pooled + C · covariates + b, where *pooled* is the mean of the encoder's output over
   the tokens of a row without its first and last special token. The head is computed in float32.
2. PEFT puts the factors on full-path targets; the encoder's own forward is run, unmodified.
3. With LoRA on the top k layers only, what enters the lowest of them never changes: it is computed
   once per row and kept (:meth:`AdaptedModel.cached`). A run from there is the stock forward with
   its list of layers cut and the embeddings' output replaced, so masks, rotary positions and final
   norms remain the library's.
4. The model is always in eval mode: no dropout, so sites differ by their data alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plasmid.core.errors import ModelError
from plasmid.models.adapter import AdapterSchema, Vector, adapter_schema, lora_modules, target_regex
from plasmid.models.architectures import architecture
from plasmid.models.batches import Batch, Rows
from plasmid.models.loading import load_encoder
from plasmid.models.metrics import label_indices
from plasmid.models.specs import Cell, HeadSpec, LoraSpec, encode_covariates
from plasmid.models.store import BaseModel
from plasmid.models.tokenizing import Tokenizer

CACHE_BATCH = 64
"""Rows per batch where no gradient is kept."""


class _Replayed(nn.Module):
    """Stands in for the embeddings and returns what is cached."""

    hidden: Tensor

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden


class AdaptedModel(nn.Module):
    """An encoder with LoRA factors and a head. Make one with :meth:`load`.

    Attributes
    ----------
    schema
        The adapter's tensors.
    """

    def __init__(self, base: BaseModel, lora: LoraSpec, head: HeadSpec, encoder: Any) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        self.base = base
        self.spec = head
        self.schema: AdapterSchema = adapter_schema(base, lora, head)
        settings: dict[str, Any] = {
            "task_type": "FEATURE_EXTRACTION",
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "target_modules": target_regex(base, lora_modules(base, lora)),
        }
        with warnings.catch_warnings():
            # peft asks transformers 5 for a property that it renamed; nothing here uses either.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            self.peft = get_peft_model(encoder, LoraConfig(**settings))
        shapes = {tensor.name: tensor.shape for tensor in self.schema.tensors}
        self.head = nn.Linear(shapes["head.weight"][1], len(head.labels))
        self.covariates = nn.Linear(max(1, head.covariate_width), len(head.labels), bias=False)
        self._trained = self._by_name()
        known = architecture(base.entry.architecture)
        parent, _, self._list_name = known.layers.rpartition(".")
        self._parent = (encoder.get_submodule(parent),)  # in a tuple: not registered a second time
        self._encoder = (encoder,)
        self._embeddings_name = known.embeddings
        every = encoder.get_submodule(known.layers)
        self._split = None if lora.layers is None else len(every) - lora.layers
        self._tokenizer = Tokenizer(base)
        self.eval()

    @classmethod
    def load(
        cls, base: BaseModel, lora: LoraSpec, head: HeadSpec, *, device: str | torch.device = "cpu"
    ) -> AdaptedModel:
        """Return the model in float32 on *device*, its adapter zero but for PEFT's random A.

        Raises
        ------
        ModelError
            As :func:`plasmid.models.loading.load_encoder`, :func:`plasmid.models.adapter.lora_modules` and
            :class:`plasmid.models.tokenizing.Tokenizer`.
        """
        # On a CPU the plain attention is a quarter faster for sequences of tens of tokens.
        attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
        return cls(base, lora, head, load_encoder(base, attention=attention).to(device)).to(device)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.head.weight.device

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters: ``lora``, ``head`` and, if there are any, ``covariates``."""
        found: dict[str, list[nn.Parameter]] = {"lora": [], "head": []}
        for name, parameter in self._trained.items():
            group = {"head.weight": "head", "head.bias": "head", "head.covariates": "covariates"}
            found.setdefault(group.get(name, "lora"), []).append(parameter)
        return found

    def _by_name(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by their names in the schema, in its order."""
        named = {
            name.replace(".default.weight", ".weight"): parameter
            for name, parameter in self.peft.named_parameters()
            if parameter.requires_grad
        }
        named |= {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}
        if self.spec.covariate_width:
            named["head.covariates"] = next(self.covariates.parameters())
        else:
            self.covariates.weight.requires_grad_(False)
        wanted = [tensor.name for tensor in self.schema.tensors]
        assert sorted(wanted) == sorted(named), "PEFT put factors elsewhere than the schema says"
        return {name: named[name] for name in wanted}

    def set_state(self, state: Vector) -> None:
        """Adopt *state*, float32 [schema.size].

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``.
        """
        tensors = self.schema.unflatten(state)
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(torch.from_numpy(tensors[name]))

    def state(self) -> Vector:
        """Return the adapter as float32 [schema.size]; exactly what :meth:`set_state` was given."""
        return np.concatenate(
            [parameter.detach().cpu().numpy().reshape(-1) for parameter in self._trained.values()]
        ).astype(np.float32, copy=False)

    def encode(
        self,
        columns: Mapping[str, Sequence[Cell]],
        *,
        input_column: str,
        max_length: int,
        label_column: str | None = None,
    ) -> Rows:
        """Return *columns* as :class:`Rows`.

        Parameters
        ----------
        max_length
            In tokens, the two special ones included; longer inputs are cut.
        label_column
            None leaves the labels out.

        Raises
        ------
        ModelError
            ``model.tokenizer_unknown``; ``model.too_long``: *max_length* is beyond the model's positions.
        DataError
            As :func:`plasmid.models.specs.encode_covariates` and
            :func:`plasmid.models.metrics.label_indices`.
        """
        self._check_length(max_length)
        ids = self._tokenizer.encode([str(cell) for cell in columns[input_column]], max_length)
        covariates = encode_covariates(self.spec.covariates, columns, len(ids))
        labels = None
        if label_column is not None:
            labels = torch.from_numpy(label_indices(self.spec.labels, columns[label_column]))
        return Rows(
            torch.tensor([token for row in ids for token in row], dtype=torch.long),
            np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
            torch.from_numpy(covariates),
            labels,
            self._tokenizer.pad_id,
        )

    def _check_length(self, max_length: int) -> None:
        config = self._encoder[0].config
        longest = config.max_position_embeddings
        if getattr(config, "position_embedding_type", "absolute") == "absolute" and max_length > longest:
            raise ModelError(
                "model.too_long",
                f"inputs of {max_length} tokens, but {self.base.id} has positions for {longest}.",
                "Lower max_length in the recipe's data section.",
            )

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, float32 [n, labels], for *batch* on the model's device."""
        groups = batch.groups() if self.device.type == "cpu" else None
        if groups is None:
            pooled = self._pooled(batch)
        else:
            pooled = torch.cat([self._pooled(batch.part(group)) for group in groups])
            pooled = pooled[torch.cat(groups).argsort()]
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self.head(pooled)
            if self.spec.covariate_width:
                logits = logits + self.covariates(batch.covariates)
        return logits

    def _pooled(self, batch: Batch) -> Tensor:
        """Return the masked mean of the encoder's output, float32 [n, hidden]."""
        if batch.hidden is None:
            encoded = self._run(batch)
        else:
            with self._cut(upper=True, hidden=batch.hidden):
                encoded = self._run(batch)
        inner = batch.attention_mask[:, 2:, None].to(torch.float32)
        return (encoded[:, 1:-1].float() * inner).sum(1) / inner.sum(1).clamp(min=1.0)

    def _run(self, batch: Batch) -> Tensor:
        output: Tensor = self._encoder[0](
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        return output

    @contextmanager
    def _cut(self, *, upper: bool, hidden: Tensor | None = None) -> Iterator[None]:
        """Leave only the trained layers (fed with *hidden*) or only the ones below them."""
        assert self._split is not None
        encoder, parent = self._encoder[0], self._parent[0]
        every, embeddings = getattr(parent, self._list_name), getattr(encoder, self._embeddings_name)
        setattr(parent, self._list_name, every[self._split :] if upper else every[: self._split])
        if hidden is not None:
            replayed = _Replayed()
            replayed.hidden = hidden
            setattr(encoder, self._embeddings_name, replayed)
        try:
            yield
        finally:
            setattr(parent, self._list_name, every)
            setattr(encoder, self._embeddings_name, embeddings)

    @torch.no_grad()
    def cached(
        self, rows: Rows, *, dtype: torch.dtype = torch.float32, on_batch: Callable[[], None] | None = None
    ) -> Rows:
        """Return *rows* with what enters the lowest trained layer, or as they are if all layers are trained.

        Parameters
        ----------
        dtype
            In which the activations are computed (by autocast, if not float32) and kept.
        on_batch
            Called before each batch; may raise to stop.
        """
        if self._split is None:
            return rows
        width = self.head.in_features
        kept = torch.empty((len(rows.ids), width), dtype=dtype)
        encoder = self._encoder[0]
        every = getattr(self._parent[0], self._list_name)
        last = every[self._split - 1] if self._split else getattr(encoder, self._embeddings_name)
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        low = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        try:
            with self._cut(upper=False), low:
                for group in rows.by_length(CACHE_BATCH):
                    if on_batch is not None:
                        on_batch()
                    seen.clear()
                    self._run(rows.batch(group).to(self.device))
                    for place, row in enumerate(group):
                        start, end = int(rows.starts[row]), int(rows.starts[row + 1])
                        kept[start:end] = seen[0][place, : end - start].to(dtype)
        finally:
            hook.remove()
        return rows.with_hidden(kept)

    @torch.no_grad()
    def probabilities(self, rows: Rows) -> Vector:
        """Return softmax of the logits in float32, [rows, labels], each row independent of the others."""
        found = np.empty((len(rows), len(self.spec.labels)), np.float32)
        for group in rows.by_length(CACHE_BATCH):
            found[group] = self(rows.batch(group).to(self.device)).softmax(-1).cpu().numpy()
        return found
