"""A base model with an adapter on it that answers with the base's own head: the next token's, or a mask's.

Rules
-----
1. The body is run as an encoder is (:mod:`plasmid.encoders.encoder`), with what enters the lowest trained
   layer cached where it never changes; the head reads only those tokens that have a target. Its weights stay.
2. A row of a causal model is its prompt in the base's chat template, cut to ``max_length`` tokens where the
   prompt's text is, and behind it the answer with the mark of its end. The target at a token is the next one.
3. Masks are drawn anew for each batch, so of masked rows nothing is cached; padding is never masked.
4. Answers are written by ``generate`` of transformers, the likeliest token each time, for rows of like length
   together: padded on the left, as it has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasmid.adapters.adapter import Vector
from plasmid.bases.architectures import architecture
from plasmid.bases.specs import Cell
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, ModelError
from plasmid.encoders.batches import Batch, Rows
from plasmid.encoders.encoder import CACHE_BATCH, AdaptedModel
from plasmid.language.chat_templates import Message
from plasmid.language.prompts import Prompts
from plasmid.tasks import IGNORED, Answers, Head
from plasmid.tasks.causal import CausalHead
from plasmid.tasks.masked_lm import MaskedHead, masked

WRITE_ROWS = 32
"""Answers that are written at a time, at most."""


class LanguageModel(AdaptedModel):
    """A language model with LoRA factors. :meth:`AdaptedModel.load` makes it where the head is the base's."""

    def _add_head(self, head: Head) -> None:
        known = architecture(self.base.entry.architecture)
        if known.head != head.own_head:
            raise ModelError(
                "model.own_head",
                f"{self.base.id} keeps {_HEADS[known.head]}; a task of kind {head.kind} needs "
                f"{_HEADS[head.own_head]}.",
                "Import the base anew, with --causal or --masked, or name another one.",
            )
        modules = [self.encoder.get_submodule(path) for path in known.readout]
        self._readout: tuple[Any, ...] = tuple(modules)

    def _read_with(self, base: BaseModel) -> None:
        if isinstance(self.spec, CausalHead):
            self._prompts = Prompts(base)
            if self._prompts.template is None:
                raise ModelError(
                    "model.no_chat",
                    f"{base.id} has no chat template, so that nobody knows where its answer begins.",
                    "Import it with --chat-template, or use a model that was made to answer.",
                )
        else:
            super()._read_with(base)
            self._mask = self._tokenizer.mask_id
            self._others = np.array(self._tokenizer.ordinary_ids, np.int64)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits at the tokens that have a target, float32 [targets, vocabulary], row after row."""
        assert batch.labels is not None, "a language model is asked at targets"
        read = self._features(batch)[batch.labels != IGNORED]
        with torch.autocast(self.device.type, enabled=False):
            for module in self._readout:
                read = module(read)
        return read

    def drawn(self, batch: Batch, seed: int) -> Batch:
        """Return *batch* with masks, and what is to be guessed as labels; a causal model's as it is."""
        if not isinstance(self.spec, MaskedHead):
            return batch
        ids = batch.input_ids.numpy().copy()
        labels = np.full_like(ids, IGNORED)
        for row, own in enumerate(batch.own.numpy()):
            ids[row, own], labels[row, own] = masked(
                ids[row, own], seed, mask=self._mask, others=self._others
            )
        return replace(batch, input_ids=torch.from_numpy(ids), labels=torch.from_numpy(labels))

    def encode(
        self,
        columns: Mapping[str, Sequence[Cell]],
        *,
        input_column: str,
        max_length: int,
        label_column: str | None = None,
    ) -> Rows:
        """See :meth:`AdaptedModel.encode`; without a label column rows are prompts alone.

        Raises
        ------
        DataError
            ``data.answer_too_long``: an answer has more tokens than the label's column says, and the model
            :attr:`refuses` such.
        """
        if not isinstance(self.spec, CausalHead):
            return super().encode(columns, input_column=input_column, max_length=max_length)
        self.check_length(max_length)
        prompts = [self._prompt(str(cell), max_length) for cell in columns[input_column]]
        answers = None if label_column is None else self._answer_tokens(columns[label_column])
        rows = prompts if answers is None else [p + a for p, a in zip(prompts, answers, strict=True)]
        lengths = [len(row) for row in rows]
        labels = None
        if answers is not None:
            whole = [_targets(len(p), a) for p, a in zip(prompts, answers, strict=True)]
            labels = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *whole]))
        ids = np.concatenate([np.empty(0, np.int64), *(np.array(row, np.int64) for row in rows)])
        return Rows(
            torch.from_numpy(ids),
            torch.zeros(len(ids), dtype=torch.bool),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            torch.empty(len(rows), 0),
            labels,
            min(self._prompts.ends),
            by_token=True,
        )

    def check_length(self, max_length: int) -> None:
        """See :meth:`AdaptedModel.check_length`; a causal model's answer needs positions, too."""
        super().check_length(max_length + (self.spec.most if isinstance(self.spec, CausalHead) else 0))

    def lengths(self, texts: Sequence[str], most: int) -> list[int]:
        """See :meth:`AdaptedModel.lengths`."""
        if isinstance(self.spec, CausalHead):
            return [len(self._prompt(text, most)) for text in texts]
        return super().lengths(texts, most)

    def _prompt(self, text: str, most: int) -> list[int]:
        assert isinstance(self.spec, CausalHead), "only these have prompts"
        told = [Message("system", self.spec.instruction)] if self.spec.instruction else []
        return self._prompts.chat([*told, Message("user", text)], most=most)

    def _answer_tokens(self, cells: Sequence[Cell]) -> list[list[int]]:
        assert isinstance(self.spec, CausalHead), "only these have answers"
        found = [self._prompts.answer(str(cell)) for cell in cells]
        long = [row for row, tokens in enumerate(found) if len(tokens) > self.spec.most]
        if not self.refuses:
            return [tokens[: self.spec.most] for tokens in found]
        if long:
            raise DataError(
                "data.answer_too_long",
                f"{len(long)} answers have more than {self.spec.most} tokens, their end included, "
                f"first in row {long[0] + 1}.",
                "Raise max_length of the label's column, or leave these rows out.",
            )
        return found

    def cached(
        self, rows: Rows, *, dtype: torch.dtype = torch.float32, on_batch: Callable[[], None] | None = None
    ) -> Rows:
        """See :meth:`AdaptedModel.cached`; masked rows, and prompts alone, stay as they are."""
        return rows if rows.labels is None else super().cached(rows, dtype=dtype, on_batch=on_batch)

    @torch.no_grad()
    def answers(
        self,
        rows: Rows,
        *,
        temperature: float = 1.0,  # noqa: ARG002 - one signature
        batch_rows: int = CACHE_BATCH,
    ) -> Answers:
        """Return the texts that a causal model writes, or of masked rows loss and accuracy.

        See :class:`plasmid.tasks.Answers`. *temperature* means nothing.
        """
        if isinstance(self.spec, CausalHead):
            found: Any = np.empty((len(rows), 1), object)
            for group in rows.by_length(min(batch_rows, WRITE_ROWS)):
                found[group, 0] = self._written(rows, group.tolist())
            return Answers(found)
        assert isinstance(self.spec, MaskedHead), "there are two kinds of own heads"
        measured: Vector = np.empty((len(rows), 2), np.float32)
        for group in rows.by_length(batch_rows):
            batch = self.drawn(rows.batch(group), 0).to(self.device)
            logits = self(batch).float()
            pair = [self.spec.losses(logits, batch.labels), self.spec.right(logits, batch.labels)]
            measured[group] = torch.stack(pair, 1).cpu().numpy()
        return Answers(measured)

    def _written(self, rows: Rows, group: Sequence[int]) -> list[str]:
        from transformers import GenerationConfig

        assert isinstance(self.spec, CausalHead), "only these write"
        prompts = [rows.ids[int(rows.starts[row]) : int(rows.starts[row + 1])] for row in group]
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(group), longest), rows.pad_id)
        mask = torch.zeros_like(ids)
        for place, prompt in enumerate(prompts):
            ids[place, longest - len(prompt) :] = prompt
            mask[place, longest - len(prompt) :] = 1
        settings: Any = GenerationConfig
        config = settings(
            max_new_tokens=self.spec.most,
            do_sample=False,
            eos_token_id=sorted(self._prompts.ends),
            pad_token_id=rows.pad_id,
            use_cache=True,
        )
        model: Any = self.encoder
        said = model.generate(
            ids.to(self.device), attention_mask=mask.to(self.device), generation_config=config
        )
        return [self._prompts.told(one) for one in said[:, longest:].tolist()]


_HEADS = {
    "none": "no head of its own",
    "causal": "the head of a causal language model",
    "masked": "the head for masked tokens",
}


def _targets(prompt: int, answer: Sequence[int]) -> Any:
    """Return the target at each token of a row, int64: the next one, where that is of the answer."""
    found = np.full(prompt + len(answer), IGNORED, np.int64)
    found[prompt - 1 : -1] = answer
    return found
