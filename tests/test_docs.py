"""What the documents point at exists: links, files, tests and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import cli_doc
from cli_doc import below, every_command
from plasmid.cli.main import verbs

REPOSITORY = Path(__file__).parents[1]
ROOTS = ("models", "recipes", "node", "platform")
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("recipes/**/*.md"),
        *REPOSITORY.glob("benchmarks/*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
OURS = re.compile(
    r"^(?:models|recipes|node|platform|tests|benchmarks|docs)/(?!.*__init__)[\w./-]+(?:::\w+)?$"
)
"""A path in this repository, a test in it perhaps. ``__init__.py`` is left out: some may not exist."""

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))


def prose(text: str) -> str:
    """Return *text* without its fenced blocks."""
    return FENCE.sub("", text)


def anchors(path: Path) -> set[str]:
    """Return the anchors that the headings of *path* get."""
    titles = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after ``plasmid`` of each command in the fenced blocks of *text*."""
    for _, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = (
                shlex.split(line.removeprefix("$ "), comments=True) if re.search(r"\bplasmid ", line) else []
            )
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words[:1] == ["plasmid"]:
                yield words[1:]


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that *words* name, and the words after its name."""
    assert words[0] in verbs(), f"there is no verb {words[0]!r}"
    command, name, rest = get_command(verbs()[words[0]].load()), words[0], words[1:]
    while (leaves := below(command)) is not None and rest and not rest[0].startswith("-"):
        name = f"{name} {rest[0]}"
        assert rest[0] in leaves, f"there is no 'plasmid {name}'"
        command, rest = leaves[rest[0]], rest[1:]
    return command, rest


def options(command: Any) -> set[str]:
    """Return the names of the options of *command*."""
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}


@documents
def test_relative_links_resolve(path: Path) -> None:
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@documents
def test_named_files_and_tests_exist(path: Path) -> None:
    for span in SPAN.findall(prose(path.read_text(encoding="utf-8"))):
        if OURS.match(span):
            name, _, test = span.partition("::")
            assert (REPOSITORY / name).exists(), span
            assert not test or f"def {test}(" in (REPOSITORY / name).read_text(encoding="utf-8"), span


@documents
def test_commands_in_blocks_are_accepted(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        if words[0].startswith("-"):
            assert words in (["--help"], ["--version"])
            continue
        command, rest = find(words)
        assert not hasattr(command, "commands"), f"plasmid {' '.join(words)} is not a whole command"
        if rest != ["--help"]:
            command.make_context("plasmid", list(rest))  # raises for an unknown option or a missing one


@documents
def test_commands_in_sentences_exist(path: Path) -> None:
    for span in SPAN.findall(prose(path.read_text(encoding="utf-8"))):
        words = span.split()
        if words[0] == "plasmid" and len(words) > 1 and words[1].islower() and not words[1].startswith("-"):
            command, rest = find(words[1:])
            named = {word.partition("=")[0] for word in rest if word.startswith("-")}
            assert named <= options(command), span


def test_what_counts_as_a_command() -> None:
    lines = [
        "plasmid runs ls   # all of them",
        "$ PLASMID_HOME=x plasmid login me \\",
        "    --yes",
        "plasmid: no",
    ]
    text = "\n".join(["```", *lines, "```", ""])
    assert list(commands(text)) == [["runs", "ls"], ["login", "me", "--yes"]]
    with pytest.raises(AssertionError, match="no verb"):
        find(["rum"])
    with pytest.raises(AssertionError, match="plasmid runs stahp"):
        find(["runs", "stahp"])


def test_the_command_reference_is_what_the_command_gives() -> None:
    assert cli_doc.PAGE.read_text(encoding="utf-8") == cli_doc.page(), "run 'make docs'"


def test_the_command_reference_has_a_section_on_every_verb() -> None:
    text = cli_doc.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^### plasmid (.+)$", text, re.MULTILINE) == [name for name, _ in every_command()]


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").split()) <= 1_000


def test_the_glossary_has_one_meaning_for_each_of_at_most_sixty_words() -> None:
    text = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1:4] for row in text.splitlines() if row.startswith("| ")][1:]
    words, folders = [row[0].strip() for row in rows], {row[2].strip(" `") for row in rows}
    assert len(words) == len(set(words)) <= 60
    assert words == sorted(words)
    packages = {
        path.parent for root in ROOTS for path in (REPOSITORY / root / "plasmid").rglob("__init__.py")
    }
    known = {path.relative_to(REPOSITORY).as_posix().split("/plasmid/")[1] for path in packages}
    assert folders - known == set()
