"""What a caller is told when a request fails, in the shape that OpenAI clients read.

    {"error": {"message": "...", "type": "...", "param": null, "code": "..."}}

Rules
-----
1. ``code`` is a word of OpenAI's where there is one, one of ours (``adapter_not_found``) or an error's own
   code.
2. A known error is told in full: its message holds no input. Of an unknown one the caller learns nothing,
   and the log where it happened; never its text, which may quote an input.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.responses import JSONResponse

from plasmid.core.errors import PlasmidError, place, sentence

log = logging.getLogger(__name__)

_INVALID = "invalid_request_error"
_STATUS = {
    "model.busy": (503, "server_error"),
    "model.adapter_missing": (404, _INVALID),
    "model.tokenizer_unknown": (400, _INVALID),
    "model.base_differs": (422, _INVALID),
    "model.base_unpinned": (422, _INVALID),
    "model.vocabulary_differs": (422, _INVALID),
    "model.adapter_invalid": (422, _INVALID),
    "model.adapter_mismatch": (422, _INVALID),
    "model.tensors_invalid": (422, _INVALID),
    "model.target_unknown": (422, _INVALID),
    "model.layers_unknown": (422, _INVALID),
    "model.no_room": (422, _INVALID),
}
_CODES = {"model.busy": "overloaded", "model.adapter_missing": "adapter_not_found"}


class Problem(Exception):
    """A request that is refused.

    Parameters
    ----------
    status
        Of HTTP.
    param
        The key of the request that is to blame, None where there is none.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str = _INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.kind = status, code, message, param, kind
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status, self.headers)


def problem_of(error: Exception) -> Problem:
    """Return what a caller is told of *error*."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, PlasmidError):
        status, kind = _STATUS.get(error.code, (0, ""))
        if not status and error.code.startswith("data."):
            status, kind = 400, _INVALID
        if status:
            headers = {"Retry-After": "2"} if status == 503 else {}
            said = f"{sentence(error.message)} {error.hint}".strip()
            return Problem(status, _CODES.get(error.code, error.code), said, kind=kind, headers=headers)
    log.error("a request failed: %s", place(error))
    return Problem(500, "internal_error", "The server failed; its log says where.", kind="server_error")


def adapter_not_found(name: str, why: str = "There is no such adapter.") -> Problem:
    """Return the refusal of a model *name* that is neither the base nor an adapter."""
    return Problem(404, "adapter_not_found", f"The model {name!r} is not served here. {why}", param="model")
