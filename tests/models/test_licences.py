"""Licences of merged adapters."""

from __future__ import annotations

import pytest

from plasmid.bases.licences import compose_licences
from plasmid.core.errors import ModelError


def test_one_licence_or_permissive_ones_go_together() -> None:
    assert compose_licences({"a": "MIT", "b": "mit"}).license == "mit"
    assert compose_licences({"a": "cc-by-nc-4.0", "b": "CC-BY-NC-4.0"}).license == "cc-by-nc-4.0"
    both = compose_licences({"a": "Apache-2.0", "b": "MIT", "c": "mit"})
    assert (both.license, both.name) == ("other", "apache-2.0-and-mit")


@pytest.mark.parametrize("other", ["cc-by-nc-4.0", "gpl-3.0", "other", ""])
def test_anything_else_is_refused_unless_somebody_states_it(other: str) -> None:
    with pytest.raises(ModelError) as caught:
        compose_licences({"a": "MIT", "b": other})
    assert caught.value.code == "model.licences_differ"
    assert f"b: {other or 'none stated'}" in caught.value.message
    stated = compose_licences({"a": "MIT", "b": other}, "CC-BY-NC-4.0")
    assert stated.license == "cc-by-nc-4.0"
    assert "Stated by whoever merged" in stated.sentence


def test_two_that_say_other_do_not_say_the_same() -> None:
    with pytest.raises(ModelError):
        compose_licences({"a": "other", "b": "other"})
