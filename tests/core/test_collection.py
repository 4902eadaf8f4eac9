"""Nothing is collected while what stays is made, and afterwards it is as before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from plasmid.core.gc_pause import uncollected


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("before", [True, False])
def test_it_is_off_meanwhile_and_as_before_afterwards(before: bool) -> None:
    if not before:
        gc.disable()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled(), "an inner one leaves an outer one alone"
    assert gc.isenabled() == before


def test_an_error_puts_it_back_on() -> None:
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()
