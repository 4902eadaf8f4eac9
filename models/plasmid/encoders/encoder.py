"""A base model with an adapter on it: encoder, LoRA factors, one linear head.

Rules
-----
1. logits = W · pooled + C · covariates + b, where *pooled* is the mean of the encoder's output over
   the tokens of a row without the special ones; a head that is per token reads the output at each token
   instead. The head is computed in float32. What logits mean is its own business
   (:mod:`plasmid.tasks`).
2. The layers that carry factors are replaced (:mod:`plasmid.lora`); the encoder's own forward is run,
   unmodified.
3. With LoRA on the top k layers only, what enters the lowest of them never changes: it is computed
   once per row and kept (:meth:`AdaptedModel.cached`). A run from there is the stock forward with
   its list of layers cut and the embeddings' output replaced, so masks, rotary positions and final
   norms remain the library's.
4. Factors that never learn (:meth:`AdaptedModel.learn`) never change the encoder's output either: what the
   head reads of it is computed once per row and kept (:meth:`AdaptedModel.pooled`).
5. The model is always in eval mode: no dropout, so sites differ by their data alone.
6. Gradients are summed over a batch, or gathered row by row where :attr:`AdaptedModel.samples` is on.
7. What learns, and its values, is :class:`plasmid.adapters.learned.Learned`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from plasmid.adapters.adapter import (
    Vector,
    adapter_schema,
    hidden_size,
    lora_modules,
)
from plasmid.adapters.learned import Learned
from plasmid.bases.architectures import architecture
from plasmid.bases.specs import Cell, LoraSpec, Quantization
from plasmid.bases.store import BaseModel
from plasmid.bases.tokenizing import Tokenizer
from plasmid.core.errors import ModelError
from plasmid.encoders.batches import Batch, Rows
from plasmid.encoders.encoding import encode_rows, own_starts
from plasmid.encoders.loading import load_encoder, load_language
from plasmid.lora.attach import attach, checkpointed
from plasmid.lora.layer import LoraLinear
from plasmid.lora.samples import Samples, watch
from plasmid.tasks import Answers, Head

CACHE_BATCH = 64
"""Rows per batch where no gradient is kept."""


def attention_on(device: str | torch.device) -> str:
    """Return which attention is faster: on a CPU the plain one, by a quarter, for tens of tokens."""
    return "eager" if torch.device(device).type == "cpu" else "sdpa"


def longest_input(base: BaseModel, config: Any) -> int | None:
    """Return how many tokens *base*, whose configuration is *config*, has positions for; None: any number."""
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return None
    longest = int(config.max_position_embeddings)
    if architecture(base.entry.architecture).counts_padding:
        longest -= config.pad_token_id + 1
    return longest


def mean_of_own(encoded: Tensor, own: Tensor) -> Tensor:
    """Return the mean of *encoded* [n, tokens, hidden] where *own*, bool [n, tokens]: float32 [n, hidden]."""
    weights = own[:, :, None].to(torch.float32)
    return (encoded.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


class _Replayed(nn.Module):
    """Stands in for the embeddings and returns what is cached."""

    hidden: Tensor

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden


class AdaptedModel(Learned):
    """An encoder with LoRA factors and a head. Make one with :meth:`load`.

    Attributes
    ----------
    samples
        The gradients of single rows: switch it on, run forward and backward, and take them.
    refuses
        Whether rows with something too long for the task are refused; else it is cut.
    """

    refuses = True

    def __init__(
        self, base: BaseModel, lora: LoraSpec, head: Head, encoder: Any, *, checkpointing: bool = False
    ) -> None:
        samples = Samples()
        paths = [module.path for module in lora_modules(base, lora)]
        factors = attach(encoder, paths, rank=lora.rank, scale=lora.scale, samples=samples)
        super().__init__(adapter_schema(base, lora, head), factors)
        self.base = base
        self.spec = head
        self.samples = samples
        self.encoder = encoder
        self.hidden_size = hidden_size(base)
        self._add_head(head)
        assert [tensor.name for tensor in self.schema.tensors] == list(self._trained)
        watch(self, self.samples, skip=LoraLinear)
        known = architecture(base.entry.architecture)
        parent, _, self._list_name = known.layers.rpartition(".")
        self._parent = (encoder.get_submodule(parent),)  # in a tuple: not registered a second time
        self._body = (encoder.get_submodule(known.body),)
        parent, _, self._embeddings_name = known.embeddings.rpartition(".")
        self._embeddings = (encoder.get_submodule(parent),)
        every = encoder.get_submodule(known.layers)
        if checkpointing:
            checkpointed(every)
        self._split = None if lora.layers is None else len(every) - lora.layers
        self._read_with(base)
        self.eval()

    def _add_head(self, head: Head) -> None:
        """Make what answers, and name its trainable parameters in the schema's order."""
        self.head = nn.Linear(self.hidden_size, head.width)
        self.covariates = nn.Linear(max(1, head.covariate_width), head.width, bias=False)
        self.covariates.weight.requires_grad_(head.covariate_width > 0)
        weight, bias = self.head.parameters()
        self._trained["head.weight"] = weight
        if head.covariate_width:
            self._trained["head.covariates"] = next(self.covariates.parameters())
        self._trained["head.bias"] = bias

    def _read_with(self, base: BaseModel) -> None:
        """Make what turns texts into tokens."""
        self._tokenizer = Tokenizer(base)

    @classmethod
    def load(
        cls,
        base: BaseModel,
        lora: LoraSpec,
        head: Head,
        *,
        device: str | torch.device = "cpu",
        checkpointing: bool = False,
        quantization: Quantization = "none",
    ) -> AdaptedModel:
        """Return the model in float32 on *device*, its adapter random but for B, which is zero.

        Parameters
        ----------
        checkpointing
            Keep no activations inside the transformer layers: each runs again when its gradients are due.
        quantization
            How the base's weights are held, see :func:`plasmid.encoders.loading.load_encoder`.

        Raises
        ------
        ModelError
            As :func:`plasmid.encoders.loading.load_encoder`, :func:`plasmid.adapters.adapter.lora_modules`
            and :class:`plasmid.bases.tokenizing.Tokenizer`.
        """
        if head.own_head != "none":
            from plasmid.language.encoder import LanguageModel  # a kind of this class

            model = load_language(base, attention=attention_on(device), quantization=quantization)
            return LanguageModel(base, lora, head, model, checkpointing=checkpointing).to(device)
        encoder = load_encoder(base, attention=attention_on(device), quantization=quantization)
        return cls(base, lora, head, encoder, checkpointing=checkpointing).to(device)

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
            In tokens, special ones included; longer inputs are cut.
        label_column
            None leaves the labels out.

        Raises
        ------
        ModelError
            ``model.tokenizer_unknown``; ``model.too_long``: *max_length* is beyond the model's positions.
        DataError
            As :func:`plasmid.encoders.encoding.encode_rows`.
        """
        self.check_length(max_length)
        return encode_rows(
            self._tokenizer,
            self.spec,
            columns,
            input_column=input_column,
            max_length=max_length,
            label_column=label_column,
        )

    def check_length(self, max_length: int) -> None:
        """Raise ModelError (``model.too_long``) if the model has no positions for *max_length* tokens."""
        longest = longest_input(self.base, self.encoder.config)
        if longest is not None and max_length > longest:
            raise ModelError(
                "model.too_long",
                f"inputs of {max_length} tokens, but {self.base.id} has positions for {longest}.",
                "Lower max_length in the recipe's data section.",
            )

    def drawn(self, batch: Batch, seed: int) -> Batch:  # noqa: ARG002 - one signature
        """Return *batch* with what the task draws anew each time; most draw nothing."""
        return batch

    def forward(self, batch: Batch) -> Tensor:
        """Return logits for *batch* on the model's device, float32 [n, width], or [n, tokens, width]."""
        read = self._features(batch)
        every = torch.arange(len(batch.input_ids), device=self.device)
        with torch.autocast(self.device.type, enabled=False), self.samples.part(every):
            logits = self._applied(self.head, read)
            if self.spec.covariate_width:
                logits = logits + self._applied(self.covariates, batch.covariates)
        return logits

    def _applied(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """Return what *linear* makes of *x* [n, ..., in], or its copies of their runs of rows."""
        if not self._copies:
            return linear(x)  # type: ignore[no-any-return]
        found = x.reshape(self._copies, -1, x.shape[-1]) @ linear.weight.mT
        if linear.bias is not None:
            found = found + linear.bias[:, None]
        return found.view(*x.shape[:-1], -1)

    def _features(self, batch: Batch) -> Tensor:
        """Return what the head reads, float32 [n, hidden] or [n, tokens, hidden]."""
        every = torch.arange(len(batch.input_ids), device=self.device)
        cut = self.device.type == "cpu" and batch.pooled is None and not self._copies
        groups = batch.groups() if cut else None
        if batch.pooled is not None:
            pooled = batch.pooled
        elif groups is None:
            pooled = self._pooled(batch, every)
        else:
            parts = [self._pooled(batch.part(group), group) for group in groups]
            if self.spec.per_token:
                parts = [pad(part, (0, 0, 0, batch.input_ids.shape[1] - part.shape[1])) for part in parts]
            pooled = torch.cat(parts)[torch.cat(groups).argsort()]
        return pooled

    def _pooled(self, batch: Batch, rows: Tensor) -> Tensor:
        """Return the masked mean of the encoder's output, float32 [n, hidden], or all: [n, tokens, hidden].

        *rows*, int64 [n], is where the rows of *batch* stand in the whole one.
        """
        with self.samples.part(rows):
            if batch.hidden is None:
                encoded = self._run(batch)
            else:
                with self._cut(upper=True, hidden=batch.hidden):
                    encoded = self._run(batch)
        return encoded.float() if self.spec.per_token else mean_of_own(encoded, batch.own)

    def _run(self, batch: Batch) -> Tensor:
        output: Tensor = self._body[0](
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        return output

    @contextmanager
    def _cut(self, *, upper: bool, hidden: Tensor | None = None) -> Iterator[None]:
        """Leave only the trained layers (fed with *hidden*) or only the ones below them."""
        assert self._split is not None
        owner, parent = self._embeddings[0], self._parent[0]
        every, embeddings = getattr(parent, self._list_name), getattr(owner, self._embeddings_name)
        setattr(parent, self._list_name, every[self._split :] if upper else every[: self._split])
        if hidden is not None:
            replayed = _Replayed()
            replayed.hidden = hidden
            setattr(owner, self._embeddings_name, replayed)
        try:
            yield
        finally:
            setattr(parent, self._list_name, every)
            setattr(owner, self._embeddings_name, embeddings)

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
        kept = torch.empty((len(rows.ids), self.hidden_size), dtype=dtype)
        every = getattr(self._parent[0], self._list_name)
        last = every[self._split - 1] if self._split else getattr(self._embeddings[0], self._embeddings_name)
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        low = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        try:
            with self._cut(upper=False), low:
                for group in rows.by_length(CACHE_BATCH):
                    if on_batch is not None:
                        on_batch()
                    seen.clear()
                    batch = rows.batch(group).to(self.device)
                    self._run(batch)
                    kept[rows.tokens(group)] = seen[0][batch.attention_mask.bool()].to(dtype).cpu()
        finally:
            hook.remove()
        return rows.with_hidden(kept)

    @torch.no_grad()
    def pooled(
        self, rows: Rows, *, dtype: torch.dtype = torch.float32, on_batch: Callable[[], None] | None = None
    ) -> Rows:
        """Return *rows* with what the head reads of the encoder's output, which holds as long as the factors.

        Parameters
        ----------
        dtype, on_batch
            As :meth:`cached`; what is kept is float32.
        """
        tokens = self.spec.per_token
        kept = torch.empty((len(rows.ids) if tokens else len(rows), self.hidden_size))
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            for group in rows.by_length(CACHE_BATCH):
                if on_batch is not None:
                    on_batch()
                every = torch.arange(len(group), device=self.device)
                batch = rows.batch(group).to(self.device)
                found = self._pooled(batch, every)
                where, found = (
                    (rows.tokens(group), found[batch.attention_mask.bool()])
                    if tokens
                    else (torch.from_numpy(group), found)
                )
                kept[where] = found.cpu()
        return rows.with_pooled(kept)

    def lengths(self, texts: Sequence[str], most: int) -> list[int]:
        """Return how many tokens each of *texts* has, cut to *most*."""
        return [len(row.ids) for row in self._tokenizer.encode(texts, most)]

    @torch.no_grad()
    def losses(self, rows: Rows, *, batch_rows: int = CACHE_BATCH) -> Vector:
        """Return the loss of each of the labelled *rows*, float32 [rows], computed in float32.

        What the task draws is drawn with seed 0.
        """
        found = np.empty(len(rows), np.float32)
        for group in rows.by_length(batch_rows):
            batch = self.drawn(rows.batch(group), 0).to(self.device)
            found[group] = self.spec.losses(self(batch).float(), batch.labels).cpu().numpy()
        return found

    @torch.no_grad()
    def answers(self, rows: Rows, *, temperature: float = 1.0, batch_rows: int = CACHE_BATCH) -> Answers:
        """Return what the head answers, computed in float32, each row independent of the others.

        Parameters
        ----------
        temperature
            What logits are divided by where answers are probabilities.
        batch_rows
            Rows that go through the model together.
        """
        starts = own_starts(rows.special.numpy(), rows.starts) if self.spec.per_token else None
        size = len(rows) if starts is None else int(starts[-1])
        found = np.empty((size, self.spec.width), np.float32)
        for group in rows.by_length(batch_rows):
            batch = rows.batch(group).to(self.device)
            values = self.spec.answers(self(batch), temperature)
            if starts is None:
                found[group] = values.cpu().numpy()
                continue
            for place, row in enumerate(group):
                found[starts[row] : starts[row + 1]] = values[place][batch.own[place]].cpu().numpy()
        return Answers(found, starts)
