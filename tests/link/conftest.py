"""One link server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.federation.live_link import LiveLink


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveLink]:
    """A link server over real TLS."""
    with LiveLink(tmp_path_factory.mktemp("link")) as link:
        yield link
