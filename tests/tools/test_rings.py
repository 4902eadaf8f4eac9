"""The rings of trust: how much code each holds, within bounds that only fall."""

from __future__ import annotations

import pytest

import rings
from rings import BOUNDS, Ring, code_lines

HEAVY = {"torch", "transformers", "flwr", "ray", "scipy", "dp_accounting", "absl", "randomgen"}


@pytest.fixture(scope="module")
def found() -> list[Ring]:
    return rings.rings()


@pytest.mark.promise("core-falls")
def test_every_ring_is_within_its_bound_and_the_bound_follows_the_code(found: list[Ring]) -> None:
    """A ring that shrank by more than 2 % lowers its bound in the same change."""
    assert {one.name: one.within for one in found if not one.within <= one.bound <= 1.02 * one.within} == {}


@pytest.mark.promise("core-falls")
def test_a_bound_only_falls() -> None:
    assert {
        name: bounds for name, bounds in BOUNDS.items() if list(bounds) != sorted(bounds, reverse=True)
    } == {}


def test_every_file_is_in_one_ring(found: list[Ring]) -> None:
    files = [file for one in found for file in one.files]
    assert len(files) == len(set(files))
    assert {one.name for one in found} == set(BOUNDS) == set(rings.WHAT)
    assert all(one.files for one in found)


def test_the_trusted_core_has_imported_nothing_heavy(found: list[Ring]) -> None:
    assert found[0].imported & HEAVY == set()
    assert found[1].imported & HEAVY != set()  # control


def test_the_trusted_core_holds_no_command_line(found: list[Ring]) -> None:
    assert [str(file) for file in found[0].files if "/cli/" in str(file) or "/verbs/" in str(file)] == []
    assert "typer" not in found[0].imported


def test_the_page_for_the_officer_has_the_table(found: list[Ring]) -> None:
    assert rings.PAGE.read_text(encoding="utf-8") == rings.page(found), "run 'make docs'"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", 0),
        ('"""Of two\nlines."""\n\n# A comment.\nx = 1  # another\n', 1),
        ("def f():\n    '''Says.'''\n    return (\n        1\n    )\n", 4),
        ('x = """a\nb"""\n', 2),
        ('class A:\n    x: int\n    """Of x."""\n', 2),
    ],
)
def test_a_line_of_code(text: str, lines: int) -> None:
    assert code_lines(text) == lines
