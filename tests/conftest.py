"""What the tests share: two tiny imported models, and, at the end, how the rows of threats came out."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from plasmid.bases.store import BaseModel
from plasmid.dp import accountant
from plasmid.gateway import open_view as opening
from plasmid.gateway.keys import keystore
from support.servers import warm
from support.servers.postgres_server import Postgres, running
from threat_rows import MARKS, Rows, row_of

# The same examples on every machine, however slow; no folder of earlier failures.
settings.register_profile("plasmid", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("plasmid")


@pytest.fixture(scope="session", autouse=True)
def warm_readers() -> Iterator[None]:
    """Start warm readers for gateways in the tests' own process; gateway/test_opening.py starts cold ones.

    The accountants' process, which takes two seconds to start, stays. New files of keys take the cost of a
    drawn passphrase, 1 ms instead of 300 ms a guess; gateway/test_keystore.py tests that for a chosen one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "subprocess", warm.READERS)
        patch.setattr(accountant, "IDLE_S", 3600.0)
        patch.setattr(keystore, "CHOSEN", keystore.DRAWN)
        yield


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder that holds the tiny models."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def tiny(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    """The tiny models by architecture."""
    from plasmid.bases.importer import import_folder
    from support.tiny.tiny_models import tiny_bert, tiny_esm

    source = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        return {
            "bert": import_folder(tiny_bert(source / "bert"), model_id="tiny-bert"),
            "esm": import_folder(tiny_esm(source / "esm"), model_id="tiny-esm"),
        }


@pytest.fixture(scope="session")
def zoo(
    tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BaseModel]:
    """Tiny models of every architecture, by its name."""
    from plasmid.bases.importer import import_folder
    from support.tiny.tiny_models import tiny_amplify, tiny_llama, tiny_modernbert, tiny_roberta

    source = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        return tiny | {
            "roberta": import_folder(tiny_roberta(source / "roberta"), model_id="tiny-roberta"),
            "modernbert": import_folder(tiny_modernbert(source / "modernbert"), model_id="tiny-modernbert"),
            "llama": import_folder(tiny_llama(source / "llama"), model_id="tiny-llama"),
            "eurobert": import_folder(tiny_amplify(source / "amplify"), model_id="tiny-amplify"),
        }


@pytest.fixture
def at_home(model_home: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder with the tiny models the state folder."""
    monkeypatch.setenv("PLASMID_HOME", str(model_home))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL, one for all tests of a process; skipped where its wheel is not installed."""
    with running() as server:
        yield server


# -- order -----------------------------------------------------------------------------------------

FIRST = ("e2e", "threats", "gateway", "cli")
"""Folders whose files take longest: they begin while there is other work for the other processes."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the folders that take longest first, files and tests in their order; note marks of threats."""
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(FIRST)))
    for item in items:  # a property travels with the report to the process that tells it
        item.user_properties += [(mark.name, True) for mark in item.iter_markers() if mark.name in MARKS]


def pytest_collection_finish() -> None:
    """Keep the collector of garbage from looking at thousands of tests and what they import each time."""
    gc.collect()
    gc.freeze()


# -- the table of threats; here, so that a session in several processes tells it, too ---------------

ROWS = Rows()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count tests that were not selected."""
    ROWS.not_selected += sum(row_of(item.nodeid) is not None for item in items)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a file that could not be collected."""
    if report.failed:
        ROWS.note(report.nodeid, "not collected")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test once: by its call, or by the phase that failed or skipped it."""
    if report.when == "call" or report.outcome != "passed":
        ROWS.note(report.nodeid, report.outcome, [name for name, _ in report.user_properties])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the report."""
    lines = ROWS.lines()
    if lines:
        terminalreporter.section("threats", sep="-")
        for line in lines:
            terminalreporter.write_line(line)
