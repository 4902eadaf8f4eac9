"""What callers may ask, checked and capped before anything is computed.

Rules
-----
1. Strict: a key that is not known is refused, as OpenAI does, and so is one that is there twice.
2. A body, its values, the inputs of one request and one input's length are capped.
3. What is wrong is told by its place; a value of the request is never repeated.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from plasmid.core.bounds import parse_json
from plasmid.endpoint.problems import Problem

MAX_BODY_BYTES = 8 * 2**20
MAX_INPUTS = 2048
MAX_CHARACTERS = 100_000
MAX_COLUMNS = 1001

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Inputs = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
AskedCell = Annotated[str, Field(max_length=MAX_CHARACTERS)] | float | None
Row = Annotated[dict[Annotated[str, Field(max_length=200)], AskedCell], Field(max_length=MAX_COLUMNS)]


class Asked(BaseModel):
    """What every question says: which model."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    model: Name
    user: str | None = None


class _Rows(Asked):
    """What the questions to an encoder say.

    Attributes
    ----------
    truncate
        True: cut an input that is too long; False: refuse it. Not OpenAI's.
    """

    truncate: bool = False


class Embed(_Rows):
    """The body of ``POST /v1/embeddings``."""

    input: Text | Inputs
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class Predict(_Rows):
    """The body of ``POST /v1/predict``.

    Attributes
    ----------
    input
        Texts alone, for an adapter without covariates.
    rows
        Rows by column name; either these or *input*.
    """

    input: Text | Inputs | None = None
    rows: Annotated[list[Row], Field(min_length=1, max_length=MAX_INPUTS)] | None = None


T = TypeVar("T", bound=Asked)


async def read(request: Request, kind: type[T]) -> T:
    """Return the body of *request*.

    Raises
    ------
    Problem
        It is too long, or not what it should be.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Problem(
                413, "request_too_large", f"The body has more than {MAX_BODY_BYTES} bytes; split the request."
            )
    found: T | None = None
    places: dict[str, str] = {}
    try:
        parse_json(bytes(body))
        found = kind.model_validate_json(bytes(body))
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False, include_input=False):
            places.setdefault(_place(one["loc"], kind), _told(one))
    except ValueError:
        places = {"the body": "is not JSON, has a key twice, or holds too many values"}
    if found is None:  # outside the except block: a cause would quote the request
        told = "; ".join(f"{where}: {what}" for where, what in list(places.items())[:5])
        first = next(iter(places)).partition(".")[0]
        raise Problem(
            400,
            "invalid_request",
            f"The request cannot be read: {told}.",
            param=first if first in kind.model_fields else None,
        )
    return found


def _place(where: tuple[int | str, ...], kind: type[T]) -> str:
    """Return keys and numbers of *where*: a key that is not ours is the caller's word, and not repeated."""
    known = [str(part) for part in where if isinstance(part, int) or part in kind.model_fields]
    return ".".join(known) or "the body"


def _told(one: object) -> str:
    kind = one["type"] if isinstance(one, dict) else ""
    words = {"extra_forbidden": "an unknown key", "missing": "is missing", "json_invalid": "is not JSON"}
    return words.get(str(kind), f"is not as it should be ({kind})")


def texts(given: str | list[str]) -> list[str]:
    """Return one text or several as a list."""
    return [given] if isinstance(given, str) else given
