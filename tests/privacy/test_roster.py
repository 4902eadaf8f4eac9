"""Who may collude, what the threshold is, and which adverts make a roster."""

from __future__ import annotations

import pytest

from plasmid.core.errors import ProtocolError
from plasmid.secagg.roster import check_adverts, check_colluders, least_colluders, threshold
from support.federation.secure_sum import NAMES, adverts, started


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


@pytest.mark.parametrize(
    ("n", "c", "theta", "dropouts"),
    [(3, 1, 3, 0), (4, 1, 3, 1), (6, 1, 4, 2), (10, 3, 7, 3), (50, 16, 34, 16), (64, 62, 64, 0)],
)
def test_the_thresholds_of_the_specification(n: int, c: int, theta: int, dropouts: int) -> None:
    assert (threshold(n, c), n - threshold(n, c)) == (theta, dropouts)


def test_every_admissible_threshold_separates_two_lists_and_outnumbers_the_colluders() -> None:
    for n in range(3, 65):
        for c in range(1, n - 1):
            theta = threshold(n, c)
            assert 2 * theta > n + c  # two sets of theta consents share an honest site
            assert c < theta <= n
            assert theta - c >= 2  # every sum holds two honest inputs


@pytest.mark.parametrize(
    ("organisations", "largest", "least"),
    [
        ({"me": "A", "b": "B", "c": "C"}, 1, 1),
        ({"me": "A", "b": "B", "c": "B", "d": "C"}, 1, 2),
        ({"me": "A", "b": "B", "c": "B", "d": "C", "e": "C", "f": "C"}, 1, 3),
        ({"me": "A", "b": "B", "c": "B", "d": "C", "e": "C", "f": "C"}, 2, 5),
        ({"me": "A", "b": "B", "c": "B", "d": "C", "e": "C", "f": "C"}, 9, 5),
        ({"me": "A", "b": "A", "c": "A", "d": "C"}, 1, 1),  # one's own organisation is no adversary
        ({"me": "A", "b": "A", "c": "A"}, 1, 1),
        ({"me": "A", "b": None, "c": "B"}, 1, 2),  # an unconfirmed site and one organisation
        ({"me": "A", "b": None, "c": None, "d": "B", "e": "B"}, 1, 4),
        ({"me": "A", "b": None, "c": None}, 0, 2),
        ({"me": "A", "b": "B", "c": "B"}, 0, 1),  # never less than one
    ],
)
def test_the_least_number_of_colluders(
    organisations: dict[str, str | None], largest: int, least: int
) -> None:
    assert least_colluders(organisations, largest, me="me") == least


@pytest.mark.parametrize(
    ("n", "c", "least", "accepted"),
    [
        (3, 1, 1, True),
        (6, 1, 1, True),
        (10, 3, 3, True),
        (50, 16, 2, True),
        (64, 62, 1, True),
        (3, 2, 1, False),  # c >= n - 1: a fellow site would subtract itself
        (3, 3, 1, False),
        (64, 63, 1, False),
        (6, 1, 2, False),  # less than the site's own value
        (6, 0, 1, False),
        (6, 0, 0, False),  # c >= 1, whatever the site says
        (1, 1, 1, False),
    ],
)
def test_a_plan_of_colluders(n: int, c: int, least: int, accepted: bool) -> None:
    if accepted:
        assert check_colluders(n, c, least) is None
    else:
        with refusal("protocol.colluders"):
            check_colluders(n, c, least)


def test_two_organisations_never_mask() -> None:
    """The other organisation's sites are all assumed to collude, so c >= n - 1."""
    organisations = {"me": "A", "b": "B", "c": "B"}
    least = least_colluders(organisations, 1, me="me")
    for c in (1, 2):
        with refusal("protocol.colluders"):
            check_colluders(3, c, least)


def test_adverts_come_back_in_the_order_of_the_roster() -> None:
    given = adverts(started())
    assert [advert.site for advert in check_adverts(given)] == sorted(NAMES)


def test_no_roster_is_empty_or_larger_than_64() -> None:
    (advert, *_) = adverts(started(slots=1))
    for count in (0, 1, 2, 65):
        with refusal("protocol.adverts") as caught:
            check_adverts([advert.model_copy(update={"site": f"s{index}"}) for index in range(count)])
        assert f"not {count}" in caught.value.message
