"""At the end of a session, tell how many rows of the threat table were tried and how many held."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from threat_rows import Rows, row_of

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
        ROWS.note(report.nodeid, report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the report."""
    lines = ROWS.lines()
    if lines:
        terminalreporter.section("threats", sep="-")
        for line in lines:
            terminalreporter.write_line(line)
