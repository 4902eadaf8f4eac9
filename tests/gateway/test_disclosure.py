"""What leaves a site about an error: a code and a sentence that are constants of the source."""

from __future__ import annotations

import pytest

from error_codes import codes_of_the_source
from plasmid.core.errors import DataError, PlasmidError, ProtocolError, RunFailed, from_dict
from plasmid.gateway.sentences import SENTENCES, public
from plasmid.protocol.messages import Failed

SECRET = "CANARY-4711"


@pytest.mark.promise("constant-errors")
@pytest.mark.parametrize("code", sorted(codes_of_the_source() | set(SENTENCES)))
def test_every_code_leaves_as_a_constant(code: str) -> None:
    error = from_dict({"code": code, "message": f"the cell is {SECRET}", "hint": SECRET})
    told, sentence = public(error)
    assert sentence == SENTENCES[told]
    assert SECRET not in told + sentence
    # and it fits the message in which it leaves
    assert Failed(run="run-1", site="alpha", code=told, sentence=sentence).code == told


def test_known_codes_leave_as_themselves() -> None:
    for code in SENTENCES:
        assert public(from_dict({"code": code, "message": ""}))[0] == code


OWN = {
    "data.absent",
    "data.no_public_size",
    "data.not_ready",
    "data.population_overlap",
    "data.source_down",
    "data.source_timeout",
}
"""Codes that say nothing of a row."""


@pytest.mark.parametrize("code", sorted(code for code in codes_of_the_source() if code.startswith("data.")))
def test_what_is_wrong_with_the_data_stays_at_home(code: str) -> None:
    told, _ = public(DataError(code, f"the cell is {SECRET}"))
    assert told == (code if code in OWN else "data.invalid")


@pytest.mark.promise("constant-errors")
@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        OSError(28, SECRET),
        RunFailed("run.made_up", SECRET),
        ProtocolError(f"protocol.{SECRET}", SECRET),
        PlasmidError("", SECRET),
        PlasmidError(SECRET, SECRET),
    ],
)
def test_an_unknown_error_says_that_the_site_failed(error: Exception) -> None:
    assert public(error) == ("site.failed", "The site could not go on; its own log says why.")


def test_no_sentence_is_for_a_code_that_nothing_raises() -> None:
    made_here = {"data.invalid", "site.failed"}
    assert sorted(set(SENTENCES) - codes_of_the_source() - made_here) == []
