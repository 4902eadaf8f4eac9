"""Where a passphrase comes from, and where it never does."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from plasmid.core.errors import KeysError
from plasmid.gateway.keys import passphrase
from plasmid.gateway.keys.passphrase import FILE_VARIABLE, find, from_descriptor, from_file, from_terminal

WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def _no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FILE_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def written(path: Path, text: bytes = WORDS.encode() + b"\n", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    path.chmod(mode)
    return path


def piped(text: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return reader


@pytest.mark.parametrize(
    "text", [b"correct horse battery", b"correct horse battery\r\n", b"correct horse battery\nx\n"]
)
def test_the_first_line_of_a_file(tmp_path: Path, text: bytes) -> None:
    assert from_file(written(tmp_path / "p", text))() == WORDS


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeysError) as refused:
        from_file(written(tmp_path / "p", mode=mode))()
    assert refused.value.code == "keys.passphrase_file"
    assert f"{mode:04o}" in refused.value.message


@pytest.mark.parametrize("text", [b"", b"\n", b"x" * 1025, b"secret\xff\xfe"])
def test_what_is_no_line_of_text_is_refused_unquoted(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(KeysError) as refused:
        from_file(written(tmp_path / "p", text))()
    assert refused.value.code == "keys.passphrase_file"
    shown = "".join(traceback.format_exception(refused.value))
    assert "secret" not in shown
    assert "xxx" not in shown


@pytest.mark.parametrize("what", ["absent", "folder", "pipe"])
def test_what_is_no_file_is_said_and_not_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path, 0o600)
    with pytest.raises(KeysError) as refused:
        from_file(path)()
    assert refused.value.code == "keys.passphrase_file"


def test_a_descriptor_is_read_once_and_closed() -> None:
    descriptor = piped(b"correct horse battery\n")
    source = from_descriptor(descriptor)
    assert source() == source() == WORDS
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_descriptor_that_is_none_is_said() -> None:
    with pytest.raises(KeysError) as refused:
        from_descriptor(999)()
    assert refused.value.code == "keys.passphrase_file"


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase.sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(KeysError) as refused:
        find("the site alpha")()
    assert refused.value.code == "keys.no_passphrase"
    assert "the site alpha" in refused.value.message


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answers", "code"), [([WORDS, WORDS], ""), ([WORDS, "x"], "keys.passphrases_differ")]
)
def test_a_new_passphrase_is_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], code: str
) -> None:
    left = list(answers)
    monkeypatch.setattr(passphrase.sys, "stdin", _Terminal())
    monkeypatch.setattr(passphrase.getpass, "getpass", lambda prompt: left.pop(0))
    source = from_terminal("alpha", twice=True)
    if code:
        with pytest.raises(KeysError) as refused:
            source()
        assert refused.value.code == code
    else:
        assert source() == WORDS
    assert left == []


def test_what_is_said_first_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = written(tmp_path / "option", b"from the option\n")
    variable = written(tmp_path / "variable", b"from the variable\n")
    written(tmp_path / "systemd" / "plasmid-passphrase", b"from systemd\n", mode=0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "systemd"))
    assert find("alpha")() == "from systemd"
    monkeypatch.setenv(FILE_VARIABLE, str(variable))
    assert find("alpha")() == "from the variable"
    assert find("alpha", file=option)() == "from the option"
    assert find("alpha", file=option, descriptor=piped(b"from the pipe\n"))() == "from the pipe"


def test_a_secret_of_systemd_that_the_world_may_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "plasmid-passphrase", mode=0o444)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(KeysError) as refused:
        find("alpha")()
    assert refused.value.code == "keys.passphrase_file"
