"""One base model that serves many adapters: their rows share the encoder's batches.

Rules
-----
1. The encoder is loaded once. An adapter in memory is its factors and its head, and nothing else of it:
   memory grows by the size of the adapters' files.
2. A row's result depends on that row and its adapter alone. It is what :mod:`plasmid.adapters.predict` gives
   for it, to the rounding of float32: same pooling, same head, same answer (:mod:`plasmid.tasks`).
3. Adapters of one batch may differ in rank, targets, layers, kind of task, labels and covariates; a row may
   have none, and then its result is the mean of the base's output.
4. Weights are float32 or bfloat16; means and heads are computed in float32. One forward pass at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence

from plasmid.adapters.adapter import ALL_LINEAR, PEFT_PREFIX, Vector, hidden_size, lora_modules
from plasmid.adapters.artifact import Adapter
from plasmid.adapters.files import HeadFile
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.bases.tokenizing import Encoded, Tokenizer
from plasmid.encoders.batches import Batch
from plasmid.encoders.encoder import attention_on, longest_input, mean_of_own
from plasmid.encoders.loading import load_encoder
from plasmid.lora.mixed import Factors, Span, Spans, fastest, mix

ANY_LENGTH = 8192
"""Tokens of an input where the base model itself sets no limit."""
_EVERYWHERE = LoraSpec(rank=1, alpha=1.0, targets=[ALL_LINEAR])


@dataclass(frozen=True)
class Loaded:
    """An adapter in memory, on a model's device.

    Attributes
    ----------
    factors
        By the path of their layer.
    weight, covariates, bias
        The head, float32: [outputs, hidden], [outputs, covariate width] or None, [outputs].
    size_bytes
        Of all these.
    """

    about: HeadFile
    factors: Mapping[str, Factors]
    weight: Tensor
    covariates: Tensor | None
    bias: Tensor
    size_bytes: int


@dataclass(frozen=True)
class Item:
    """One row that is to be computed.

    Attributes
    ----------
    tokens
        Of its text.
    adapter
        None is the base alone.
    scored
        True: what the adapter's head answers; False: the mean of the encoder's output.
    covariates
        float32 [covariate width of the adapter]; not looked at where *scored* is False.
    """

    tokens: Encoded
    adapter: Loaded | None
    scored: bool
    covariates: Vector | None = None

    @property
    def per_token(self) -> bool:
        """Whether what is wanted is an answer for each token of the text's own."""
        return self.scored and self.adapter is not None and self.adapter.about.head.per_token


class _Store:
    """One block of memory for all tensors of an adapter: many small ones would leave holes between them."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.flat = torch.empty(size, dtype=dtype, device=device)
        self._end = 0

    def put(self, tensor: Tensor) -> Tensor:
        """Return a copy of *tensor* in the block."""
        start, self._end = self._end, self._end + tensor.numel()
        return self.flat[start : self._end].view(tensor.shape).copy_(tensor)


class MixedModel(nn.Module):
    """The encoder of *base*, ready for rows of many adapters. Make one with :meth:`load`.

    Attributes
    ----------
    hidden
        The width of the encoder's output.
    longest
        Tokens of the longest input, special ones included.
    """

    def __init__(self, base: BaseModel, encoder: Any, *, gathered: bool) -> None:
        super().__init__()
        self.base = base
        self.hidden = hidden_size(base)
        self.longest = longest_input(base, encoder.config) or ANY_LENGTH
        self._spans = Spans(gathered=gathered)
        paths = [module.path for module in lora_modules(base, _EVERYWHERE)]
        mix(encoder, paths, self._spans, fastest(encoder.get_submodule(path).weight for path in paths))
        self.encoder = encoder
        self._tokenizer = Tokenizer(base)
        self.eval()

    @classmethod
    def load(
        cls,
        base: BaseModel,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        gathered: bool | None = None,
    ) -> MixedModel:
        """Return the model with its weights in *dtype* on *device*.

        Parameters
        ----------
        gathered
            Rule 2 of :mod:`plasmid.lora.mixed`; None is True but on a CPU.

        Raises
        ------
        ModelError
            As :func:`plasmid.encoders.loading.load_encoder` and :class:`plasmid.bases.tokenizing.Tokenizer`.
        """
        encoder = load_encoder(base, attention=attention_on(device)).to(device=device, dtype=dtype)
        if gathered is None:
            gathered = torch.device(device).type != "cpu"
        return cls(base, encoder, gathered=gathered)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.encoder.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        dtype: torch.dtype = next(self.encoder.parameters()).dtype
        return dtype

    # -- what goes in ------------------------------------------------------------------------------

    def hold(self, adapter: Adapter) -> Loaded:
        """Return *adapter* in memory, on the model's device.

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``: its tensors are not those of such an adapter on this base.
        """
        about, given = adapter.about, adapter.tensors
        adapter.on(self.base)
        modules = lora_modules(self.base, about.lora)
        scale = about.lora.scale
        store = _Store(
            sum(about.lora.rank * (one.inputs + one.outputs) for one in modules), self.dtype, self.device
        )
        factors = {}
        for module in modules:
            name = f"{PEFT_PREFIX}{module.path}"
            down = store.put(torch.from_numpy(given[f"{name}.lora_A.weight"]) * scale)
            factors[module.path] = Factors(
                down, store.put(torch.from_numpy(given[f"{name}.lora_B.weight"]).T)
            )
        names = [name for name in ("head.weight", "head.bias", "head.covariates") if name in given]
        heads = _Store(sum(given[name].size for name in names), torch.float32, self.device)
        head = {name: heads.put(torch.from_numpy(given[name])) for name in names}
        return Loaded(
            about,
            factors,
            head["head.weight"],
            head.get("head.covariates"),
            head["head.bias"],
            store.flat.nbytes + heads.flat.nbytes,
        )

    def tokens(self, texts: Sequence[str], most: int) -> list[Encoded]:
        """Return the tokens of each text, cut to *most*, special ones included.

        Raises
        ------
        ModelError
            ``model.tokenizer_unknown``: a protein holds a letter that the model has no token for.
        """
        return self._tokenizer.encode(texts, most)

    # -- what comes out ----------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> list[Vector]:
        """Return, for each item, float32 [outputs], [own tokens, outputs] or [hidden]; see :class:`Item`."""
        order = sorted(range(len(items)), key=lambda place: id(items[place].adapter))
        ordered = [items[place] for place in order]
        pooled = self._pooled(ordered)
        found: dict[int, Vector] = {}
        start = 0
        for (_, scored), group in groupby(ordered, key=lambda item: (id(item.adapter), item.scored)):
            rows = list(group)
            part = pooled[start : start + len(rows)]
            if not scored:
                values: Iterable[Vector] = torch.stack(part).cpu().numpy()
            elif rows[0].per_token:
                ends = np.cumsum([len(one) for one in part])
                values = np.split(_answers(rows, torch.cat(part)), ends[:-1])
            else:
                values = _answers(rows, torch.stack(part))
            for offset, row in enumerate(values):
                found[order[start + offset]] = row
            start += len(rows)
        return [found[place] for place in range(len(items))]

    def _pooled(self, items: Sequence[Item]) -> list[Tensor]:
        """Return what each item's head reads, float32 [hidden] or [own tokens, hidden].

        Rows of an adapter are neighbours.
        """
        batch = self._batch(items)
        groups = batch.groups() if self.device.type == "cpu" else None
        if groups is None:
            return self._encoded(batch, items)
        parts = [group.sort().values for group in groups]  # rows of an adapter stay neighbours
        found: dict[int, Tensor] = {}
        for part in parts:
            rows: list[int] = part.tolist()
            found |= zip(rows, self._encoded(batch.part(part), [items[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(items))]

    def _encoded(self, batch: Batch, items: Sequence[Item]) -> list[Tensor]:
        with self._spans.of(len(items), _spans_of(items)):
            encoded = self.encoder(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask
            ).last_hidden_state
        means = mean_of_own(encoded, batch.own)
        return [
            encoded[row][batch.own[row]].float() if item.per_token else means[row]
            for row, item in enumerate(items)
        ]

    def _batch(self, items: Sequence[Item]) -> Batch:
        ids = [torch.tensor(item.tokens.ids) for item in items]
        special = [torch.tensor(item.tokens.special, dtype=torch.bool) for item in items]
        padded = pad_sequence(ids, batch_first=True, padding_value=self._tokenizer.pad_id)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        own = ~pad_sequence(special, batch_first=True, padding_value=True)
        return Batch(padded, mask, own, torch.empty(len(items), 0)).to(self.device)


def _spans_of(items: Sequence[Item]) -> list[Span]:
    spans, start = [], 0
    for _, group in groupby(items, key=lambda item: id(item.adapter)):
        rows = list(group)
        adapter = rows[0].adapter
        if adapter is not None:
            spans.append(Span(adapter.factors, start, start + len(rows)))
        start += len(rows)
    return spans


def _answers(items: Sequence[Item], read: Tensor) -> Vector:
    """Return what the head of items with the same adapter answers, float32 [n, outputs].

    Parameters
    ----------
    read
        float32 [n, hidden], n being the items, or, where the head is per token, the own tokens of all.
    """
    adapter = items[0].adapter
    assert adapter is not None, "the base alone has no head"
    logits = linear(read, adapter.weight, adapter.bias)
    if adapter.covariates is not None:
        covariates = torch.from_numpy(
            np.stack([item.covariates for item in items if item.covariates is not None])
        )
        logits = logits + linear(covariates.to(logits.device), adapter.covariates)
    answers = adapter.about.head.answers(logits, adapter.about.temperature or 1.0)
    return np.asarray(answers.cpu().numpy(), np.float32)
