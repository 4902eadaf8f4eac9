"""What a digest covers of a source: code, the same on every Python, and no comment."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plasmid.recipes import code_text
from plasmid.recipes.code_text import code_of

SOURCE = '''"""Of a module,
of two lines."""

import math  # of a line


# Before a function, with "quotes" and 'others'.
def f(x: float) -> str:
    """Of a function."""
    text = "# is no comment"  # é is one
    """Of a variable."""
    long = """kept

    # and this, too
    """
    return f"{x:#x} {text!r} # {'#' if x else long}" + 'é'  # last


class A:
    """Alone in its body."""
'''
CODE = '''
import math


def f(x: float) -> str:
    text = "# is no comment"
    long = """kept

    # and this, too
    """
    return f"{x:#x} {text!r} # {'#' if x else long}" + 'é'


class A:
'''
RECORDED = "2211c7d053fab00373e8dbd13c81042de0d73380860931543a82cc9258499460"
"""SHA-256 of the code, the same under every Python."""


def runs(python: str | None) -> bool:
    """Return whether there is such an interpreter; a version manager may have an empty name of it."""
    return python is not None and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


PYTHONS = [sys.executable, *filter(runs, (shutil.which(f"python3.{minor}") for minor in (12, 13, 14)))]


def test_comments_and_docstrings_are_left_out_and_nothing_else() -> None:
    assert code_of(SOURCE.encode()).decode() == CODE
    assert hashlib.sha256(code_of(SOURCE.encode())).hexdigest() == RECORDED


@pytest.mark.parametrize("python", PYTHONS)
def test_another_python_finds_the_same_code(python: str) -> None:
    """Of the fixture, and of every computation that is shipped."""
    folder = Path(code_text.__file__).parent.parent / "computations"
    program = (
        "import hashlib, runpy, sys\n"
        f"code_of = runpy.run_path({code_text.__file__!r})['code_of']\n"
        "for source in sys.stdin.buffer.read().split(b'\\0'): "
        "print(hashlib.sha256(code_of(source)).hexdigest())\n"
    )
    sources = [SOURCE.encode(), *(path.read_bytes() for path in sorted(folder.glob("*.py")))]
    done = subprocess.run(
        [python, "-I", "-c", program], input=b"\0".join(sources), capture_output=True, check=True, timeout=60
    )
    assert done.stdout.decode().split() == [hashlib.sha256(code_of(one)).hexdigest() for one in sources]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1\n", "x = 1  # one\n"),
        ("x = 1\n", "# one\nx = 1\n"),
        ("def f():\n    return 1\n", 'def f():\n    """One."""\n    return 1\n'),
    ],
)
def test_a_comment_changes_nothing(before: str, after: str) -> None:
    assert code_of(before.encode()) == code_of(after.encode())


@pytest.mark.parametrize("after", ["x = 2\n", 'x = "1"\n', "x = 1\ny = 1\n", "if x:\n    x = 1\n"])
def test_any_code_changes_it(after: str) -> None:
    assert code_of(b"x = 1\n") != code_of(after.encode())


@pytest.mark.parametrize(
    "source",
    [
        '"""exec"""\nexec(__doc__)\n',
        "import inspect  # it reads its own text\n",
        "# -*- coding: latin-1 -*-\nx = 1\n",
        "# one\r\nx = 1\r\n",
        "open(__file__)  # 1\n",
    ],
)
def test_a_source_whose_comments_may_be_code_counts_whole(source: str) -> None:
    assert code_of(source.encode()) == source.encode()
