"""What callers may ask of a causal model, in OpenAI's words; strict like :mod:`plasmid.endpoint.requests`.

Rules
-----
1. What is not done is refused, not passed over: tools, log probabilities, penalties, several answers.
2. null means the default, as OpenAI's clients send it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasmid.endpoint.problems import Problem
from plasmid.endpoint.requests import MAX_CHARACTERS, Asked
from plasmid.language.causal import Sampling
from plasmid.language.chat_templates import Message

MAX_MESSAGES = 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 200

Content = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Nought = Annotated[float, Field(ge=0, le=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Text(_Strict):
    type: Literal["text"]
    text: Content


class AskedMessage(_Strict):
    """One turn; *content* is a text, or parts of type ``text``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | Annotated[list[_Text], Field(min_length=1, max_length=MAX_MESSAGES)]

    def message(self) -> Message:
        """Return it as templates take it."""
        whole = self.content if isinstance(self.content, str) else "".join(one.text for one in self.content)
        return Message("system" if self.role == "developer" else self.role, whole)


class _StreamOptions(_Strict):
    include_usage: bool = False


class _Form(_Strict):
    type: Literal["text"]


class Write(Asked):
    """What both questions have; each field as OpenAI's of the same name."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    presence_penalty: Nought | None = None
    frequency_penalty: Nought | None = None

    @property
    def most(self) -> int | None:
        """How many tokens are asked for at most; None: it is not said."""
        return self.max_tokens

    @property
    def tells_usage(self) -> bool:
        """Whether a stream is to end with the counts of tokens.

        Raises
        ------
        Problem
            400: options of a stream where none is asked for.
        """
        if self.stream_options is not None and not self.stream:
            raise Problem(
                400,
                "invalid_request",
                "stream_options are for a stream: ask with stream: true.",
                param="stream_options",
            )
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, most: int) -> Sampling:
        """Return how the text goes on, for *most* tokens."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            most=most,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=tuple(stop),
            seed=self.seed,
        )


class Chat(Write):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[AskedMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    response_format: _Form | None = None
    logprobs: Literal[False] | None = None
    store: Literal[False] | None = None

    @property
    def most(self) -> int | None:
        """How many tokens are asked for at most; the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class Complete(Write):
    """The body of ``POST /v1/completions``; *prompt* is one text."""

    prompt: (
        Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]],
            Field(min_length=1, max_length=1),
        ]
    )
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
