"""How a conversation becomes one text: the templates that ship with Plasmid, by name.

Rules
-----
1. A template is chosen by the base model's entry, and by nothing that travels with a model or an adapter: the
   templates in such folders are programs of strangers.
2. All of one shape: each message between marks, with its role before it; then the marks of an answer. The
   marks are single special tokens of the vocabulary.
3. What a caller writes is never read as a mark: :meth:`ChatTemplate.parts` keeps the two apart, and the
   tokenizer reads the caller's part as plain text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from plasmid.core.errors import UsageError


@dataclass(frozen=True)
class Message:
    """One turn. *role* is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True)
class Part:
    """A piece of the text: one mark, or plain text."""

    text: str
    mark: bool


@dataclass(frozen=True)
class ChatTemplate:
    """Marks and texts round each message.

    Attributes
    ----------
    first
        The mark before everything; "" is none.
    opening, middle, end
        The marks before the role, behind it ("" is none), and behind the content. A model that has written
        *end* has ended its turn.
    gap, after
        Plain text before the content, and behind *end*.
    """

    name: str
    first: str
    opening: str
    middle: str
    gap: str
    end: str
    after: str

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks that it uses."""
        return tuple(mark for mark in (self.first, self.opening, self.middle, self.end) if mark)

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Return the conversation up to where the model's answer begins; no two texts are neighbours."""
        found: list[Part] = []
        before = ""
        if self.first:
            found.append(Part(self.first, True))
        for role, content, end in [
            *((one.role, one.content, self.end) for one in messages),
            ("assistant", "", ""),
        ]:
            found += [*_text(before), Part(self.opening, True)]
            head = f"{self.gap}{content}"
            if self.middle:
                found += [Part(role, False), Part(self.middle, True), *_text(head)]
            else:
                found += _text(f"{role}{head}")
            found += [Part(end, True)] if end else []
            before = self.after
        return found

    def jinja(self) -> str:
        """Return the template in Jinja, for servers that read that."""
        each = f"{json.dumps(self.opening)} + message['role'] + {json.dumps(self.middle + self.gap)}"
        answer = json.dumps(f"{self.opening}assistant{self.middle}{self.gap}")
        return (
            (f"{{{{ {json.dumps(self.first)} }}}}" if self.first else "")
            + "{% for message in messages %}"
            + f"{{{{ {each} + message['content'] + {json.dumps(self.end + self.after)} }}}}"
            + "{% endfor %}{% if add_generation_prompt %}"
            + f"{{{{ {answer} }}}}"
            + "{% endif %}"
        )


def _text(text: str) -> list[Part]:
    return [Part(text, False)] if text else []


TEMPLATES = {
    one.name: one
    for one in (
        ChatTemplate("chatml", "", "<|im_start|>", "", "\n", "<|im_end|>", "\n"),
        ChatTemplate(
            "llama3",
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "\n\n",
            "<|eot_id|>",
            "",
        ),
    )
}


def chat_template(name: str) -> ChatTemplate:
    """Return the template called *name*.

    Raises
    ------
    UsageError
        ``usage.chat_template``: none is called so.
    """
    if name not in TEMPLATES:
        raise UsageError(
            "usage.chat_template",
            f"there is no chat template {name!r}.",
            f"Plasmid has {', '.join(sorted(TEMPLATES))}; templates of a repository are not used.",
        )
    return TEMPLATES[name]
