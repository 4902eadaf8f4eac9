"""What ``make audit`` says, and when it fails: a package that nobody knew of was not audited."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

import audit
from pins import FILES, read_pins

SOUND = {"name": "numpy", "version": "2", "vulns": []}
FLAWED = {"name": "jinja2", "version": "3.1.5", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.6"]}]}
PINNED = len(read_pins(FILES["node"].read_text(encoding="utf-8")))
UNKNOWN = {"name": "torch", "skip_reason": "not found"}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what sets pip-audit's answer: packages, or what it prints where it breaks off."""

    def answer(packages: list[dict[str, Any]] | None, error: str = "") -> None:
        output = "" if packages is None else json.dumps({"dependencies": packages})
        done = SimpleNamespace(stdout=output, stderr=error, returncode=1)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    return answer


def test_a_known_vulnerability_fails_it(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers([SOUND, FLAWED])
    assert audit.main() == 1
    said = capsys.readouterr().out
    assert "VULNERABLE jinja2 3.1.5: PYSEC-1, fixed in 3.1.6" in said
    assert f"2 of {PINNED} packages" in said


def test_what_was_not_known_is_named(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers([SOUND, UNKNOWN])
    assert audit.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"1 of {PINNED} packages of constraints/node.txt audited, 0 vulnerabilities",
        "NOT AUDITED: torch",
    ]


@pytest.mark.parametrize(
    ("packages", "error", "why"),
    [
        ([UNKNOWN], "", "no index with advisories answers here"),
        (None, "trace\nConnectionError: no route", "pip-audit: ConnectionError: no route"),
        (None, "", "pip-audit: it said nothing"),
    ],
)
def test_where_nobody_answers_it_says_that_nothing_was_audited(
    answers: Any, capsys: pytest.CaptureFixture[str], packages: Any, error: str, why: str
) -> None:
    answers(packages, error)
    assert audit.main() == 0
    assert (
        capsys.readouterr().out == f"NOT AUDITED: none of {PINNED} packages of constraints/node.txt ({why})\n"
    )


def test_a_service_that_hangs_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(*_: Any, timeout: float, **__: Any) -> None:
        raise subprocess.TimeoutExpired("pip-audit", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert audit.main() == 0
    assert "no answer within 120 s" in capsys.readouterr().out
