"""What a causal model is given and what it says, between texts and tokens.

Rules
-----
1. The tokenizer is the model's own, loaded from its folder; the chat template is Plasmid's, named by the
   model's entry, and all its marks must be single special tokens of the vocabulary.
2. What a caller writes into a message never becomes a mark: it is read as plain text. So nobody can write a
   turn of another role into his own.
3. A model ends by one of the tokens that ``config.json`` names, or by the template's mark of an end.
4. Text is told as soon as it is whole: a character of several tokens is not told in halves, and what may be
   the beginning of a stop text is kept back until it is none.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from plasmid.bases.sources import read_json
from plasmid.bases.store import BaseModel
from plasmid.bases.tokenizing import load_tokenizer, reads
from plasmid.core.errors import ModelError, PlasmidError
from plasmid.language.chat_templates import ChatTemplate, Message, Part, chat_template

_HALF = "\N{REPLACEMENT CHARACTER}"
_MOST_HALVES = 8
"""Tokens that are waited for to make a character whole; then it is told as it is."""


class Prompts:
    """The tokenizer and template of one causal base, checked.

    Attributes
    ----------
    template
        None for a model that has no chat.
    ends
        The tokens that end a text.

    Raises
    ------
    ModelError
        ``model.tokenizer_invalid``: it cannot be read, has no token for an end, or lacks a mark of the
        template; ``model.tokenizer_unknown``: plain words have no tokens.
    """

    def __init__(self, base: BaseModel) -> None:
        self._tokenizer = load_tokenizer(base.path)
        self._reading = threading.Lock()  # whether marks are split is a state of the tokenizer, not of a call
        if not reads(self._tokenizer, base.entry.input, spaced=base.entry.spaced):
            raise ModelError(
                "model.tokenizer_unknown",
                f"the tokenizer of {base.id} maps plain input to [UNK].",
                "Import a folder whose tokenizer.json is the model's own.",
            )
        self.template: ChatTemplate | None = None
        if base.entry.chat_template is not None:
            self.template = _known(base.entry.chat_template, base)
        ids = read_json(base.path / "config.json").get("eos_token_id")
        ends = {one for one in (ids if isinstance(ids, list) else [ids]) if type(one) is int}
        self._marks = {
            mark: self._mark(mark, base) for mark in (self.template.marks if self.template else ())
        }
        if self.template is not None:
            ends.add(self._marks[self.template.end])
        if not ends:
            raise _invalid(base, "config.json names no token that ends a text (eos_token_id)")
        self.ends = frozenset(ends)

    def _mark(self, mark: str, base: BaseModel) -> int:
        added = {
            str(token): (index, token.special)
            for index, token in self._tokenizer.added_tokens_decoder.items()
        }
        index, special = added.get(mark, (-1, False))
        if not special:
            raise _invalid(base, f"its template {base.entry.chat_template} needs {mark} as a special token")
        return int(index)

    def text(self, text: str) -> list[int]:
        """Return the tokens of *text*, with what the tokenizer puts before a text; marks in it are marks."""
        with self._reading:
            return list(self._tokenizer(text, split_special_tokens=False)["input_ids"])

    def chat(self, messages: Sequence[Message], *, most: int | None = None) -> list[int]:
        """Return the tokens of a conversation, up to where the answer begins. The model has a template.

        Parameters
        ----------
        most
            Of a longer one the last message is cut at its end; None: nothing is cut.
        """
        assert self.template is not None, "asked of a model without a chat template"
        parts = self.template.parts(messages)
        tokens = [[self._marks[part.text]] if part.mark else self.plain(part.text) for part in parts]
        over = 0 if most is None else sum(map(len, tokens)) - most
        if over > 0:
            last = max(place for place, part in enumerate(parts) if part == Part(self.template.end, True)) - 1
            tokens[last] = tokens[last][: max(0, len(tokens[last]) - over)]
        return [token for part in tokens for token in part]

    def plain(self, text: str) -> list[int]:
        """Return the tokens of *text* alone; no mark in it is one."""
        with self._reading:
            found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(found["input_ids"])

    def answer(self, text: str) -> list[int]:
        """Return the tokens of an answer, the mark of its end included. The model has a template."""
        assert self.template is not None, "asked of a model without a chat template"
        return [*self.plain(text), self._marks[self.template.end]]

    def told(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's *tokens* up to the first that ends it, blanks around it left out."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return str(self._tokenizer.decode(tokens[:end], skip_special_tokens=True)).strip()

    def says(self, stop: Sequence[str] = ()) -> Said:
        """Return what makes a text of one answer's tokens, up to the first of *stop* in it."""
        return Said(partial(self._tokenizer.decode, skip_special_tokens=True), stop)


def _known(name: str, base: BaseModel) -> ChatTemplate:
    try:
        return chat_template(name)
    except PlasmidError as error:
        problem = error
    raise _invalid(base, problem.message)


def _invalid(base: BaseModel, what: str) -> ModelError:
    return ModelError(
        "model.tokenizer_invalid",
        f"{base.id} cannot write text as its entry says: {what.rstrip('.')}.",
        "Import it again, with the --chat-template that it was trained with, or without one.",
    )


class Said:
    """The text of one answer, token by token.

    Attributes
    ----------
    stopped
        Whether one of the stop texts came.
    """

    def __init__(self, decode: Any, stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, [text for text in stop if text]
        self._ids: list[int] = []
        self._told = 0  # tokens whose text is in self._held, or was returned
        self._context = 0  # tokens before these are no longer looked at
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Return what can be told now that *token* came; nothing comes after a stop text."""
        self._ids.append(token)
        before = self._decode(self._ids[self._context : self._told])
        now = self._decode(self._ids[self._context :])
        if now.endswith(_HALF) and len(self._ids) - self._told < _MOST_HALVES:
            return ""
        self._context, self._told = self._told, len(self._ids)
        return self._release(now[len(before) :])

    def end(self) -> str:
        """Return what is left at the end of the answer."""
        before = self._decode(self._ids[self._context : self._told])
        text = self._release(self._decode(self._ids[self._context :])[len(before) :])
        self._told = len(self._ids)
        if self.stopped:
            return text
        held, self._held = self._held, ""
        return text + held

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            told, self._held = self._held[: min(found)], ""
            return told
        kept = max((_beginning(self._held, stop) for stop in self._stop), default=0)
        told, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return told


def _beginning(text: str, stop: str) -> int:
    """Return how many letters at the end of *text* are a beginning of *stop*, not the whole of it."""
    return next(
        (size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0
    )
