"""Which names a hub takes."""

from __future__ import annotations

import pytest

from plasmid.core.errors import HubError
from plasmid.hub.store.names import RepoId, check_owner, check_path, check_revision, check_together


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


@pytest.mark.parametrize("text", ["a/b", "plasmid/antiberty", "A.b_c-1/_x", f"{'o' * 96}/{'n' * 96}"])
def test_a_repository_is_owner_and_name(text: str) -> None:
    assert str(RepoId.parse(text)) == text
    assert RepoId.parse(text).folded == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "/a", "a/", "a/b/c", "../a", "a/..", "a/.b", "a/b.", "-a/b", "a/b-", "a/b--c",
        "a/b..c", "a/b.git",
        "a/B.GIT", "a b/c", "a/b\n", "ä/b", "a/b\0", f"{'o' * 97}/n", f"o/{'n' * 97}", "api/x",
        "Settings/x", "a/tree",
        "a/Resolve", "a\\b/c", "a%2f/c",
    ],
)  # fmt: skip
def test_other_names_are_refused(text: str) -> None:
    with refusal("hub.name"):
        RepoId.parse(text)


def test_an_owner_may_not_hide_a_page() -> None:
    with refusal("hub.name"):
        check_owner("API")
    assert check_owner("apis") == "apis"


@pytest.mark.parametrize("name", ["main", "v1.0", "feature/x", "refs-x", "2026.11+1", "a" * 200, "user@fix"])
def test_a_branch_or_tag(name: str) -> None:
    assert check_revision(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "a" * 201, "a b", "a//b", "/a", "a/", "a..b", ".a", "a/.b", "a.lock", "a/b.lock/c",
        "refs/heads/x", "HEAD",
        "0" * 40, "A" * 40, "-x", "a~1", "a^", "a:b", "a\n", "ä", "a.",
    ],
)  # fmt: skip
def test_other_revisions_are_refused(name: str) -> None:
    with refusal("hub.revision"):
        check_revision(name)


@pytest.mark.parametrize(
    "path", ["README.md", "a/b/c.txt", ".gitattributes", "1_Pooling/config.json", "ä" * 100]
)
def test_a_path(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "C:/a", "a\0", "a\n",
        "a/.git/config", ".GIT",
        "a.", "a ", " a", "nul", "aux.txt", "a" * 256, "ä" * 250, "a\u0308", "a\u202eb", "a?b", "\ud800",
    ],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with refusal("hub.path"):
        check_path(path)


def test_two_paths_must_fit_into_one_folder() -> None:
    check_together(["a", "b/c", "b/d/e", "B2"])
    for pair in (["a", "A"], ["a", "a/b"], ["a/b", "A"], ["x/y/z", "x/Y"], ["straße", "strasse"]):
        with refusal("hub.path_conflict"):
            check_together(pair)
