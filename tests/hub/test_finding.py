"""Finding repositories, and lineage, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plasmid.core.errors import HubError
from plasmid.hub.settings import Hub
from plasmid.hub.store import finding
from plasmid.hub.store.finding import Query
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Account, Add, Repo


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


def adapter(
    hub: Hub,
    name: str,
    *,
    base: str = "plasmid/antiberty",
    licence: str = "mit",
    metric: float | None = None,
    epsilon: float | None = None,
    private: bool = False,
    relation: str = "adapter",
    tags: str = "lora",
) -> Repo:
    """Make a repository with a card and a provenance."""
    ann, files = hub.accounts.get("ann"), {}
    card = f"license: {licence}\nbase_model: {base}\nbase_model_relation: {relation}\ntags: [{tags}]"
    files["README.md"] = f"---\n{card}\n---\n# About {name}: T-cell receptors of us\n".encode()
    told: dict[str, Any] = {
        "run": f"run-of-{name}",
        "privacy": {"epsilon": epsilon},
        "metrics": {"federated": metric},
    }
    files["provenance.json"] = json.dumps(told).encode()
    repo = hub.registry.create(RepoId.parse(name), by=ann, private=private)
    blobs = {path: hub.blobs.put(data) for path, data in files.items()}
    hub.registry.keep(*blobs.values())
    adds = [Add(path, blob.sha256) for path, blob in blobs.items()]
    hub.registry.commit(repo, "main", adds, title="upload", by=ann)
    return hub.registry.get(repo.id)


def fill(hub: Hub) -> Hub:
    adapter(hub, "lab/tcr-covid", metric=0.73, epsilon=8.0, tags="lora, covid")
    adapter(hub, "lab/TCR-flu", metric=0.81, epsilon=2.0, licence="apache-2.0")
    adapter(hub, "ann/notes", base="plasmid/minilm", metric=0.6)
    adapter(hub, "lab/secret", metric=0.99, private=True)
    return hub


@pytest.fixture(scope="module")
def shown(shared_hub: Hub) -> Hub:
    """A hub that tests only look at."""
    return fill(shared_hub)


@pytest.fixture
def filled(hub: Hub) -> Hub:
    """A hub that a test may change."""
    return fill(hub)


def names(hub: Hub, query: Query, viewer: Account | None = None) -> list[str]:
    return [str(found.repo.id) for found in hub.finding.search(query, viewer=viewer).found]


def check_all(hub: Hub) -> None:
    ann, eve = hub.accounts.get("ann"), hub.accounts.get("eve")
    assert names(hub, Query()) == ["ann/notes", "lab/TCR-flu", "lab/tcr-covid"]
    assert names(hub, Query(), eve) == names(hub, Query())
    assert names(hub, Query(sort="metric"), ann)[0] == "lab/secret"
    assert names(hub, Query(sort="metric")) == ["lab/TCR-flu", "lab/tcr-covid", "ann/notes"]
    assert names(hub, Query(sort="epsilon")) == ["lab/TCR-flu", "lab/tcr-covid"]
    assert names(hub, Query(sort="name")) == ["ann/notes", "lab/tcr-covid", "lab/TCR-flu"]
    assert names(hub, Query(search="TCR")) == ["lab/TCR-flu", "lab/tcr-covid"]
    assert names(hub, Query(search="cr-co")) == ["lab/tcr-covid"]
    assert names(hub, Query(search="covid lab")) == ["lab/tcr-covid"]
    assert names(hub, Query(search="license:apache-2.0")) == ["lab/TCR-flu"]
    assert names(hub, Query(search="Receptors t-cell flu")) == ["lab/TCR-flu"]
    assert names(hub, Query(search="receptors cell", tags=("covid",))) == ["lab/tcr-covid"]
    assert names(hub, Query(search="eceptors")) == names(hub, Query(search="of")) == []
    assert (
        names(hub, Query(search="%"))
        == names(hub, Query(search="a'\\"))
        == names(hub, Query(search="\0"))
        == []
    )
    assert names(hub, Query(author="LAB")) == ["lab/TCR-flu", "lab/tcr-covid"]
    assert names(hub, Query(author="nobody")) == names(hub, Query(author="\0")) == []
    assert names(hub, Query(tags=("Lora", "covid"))) == ["lab/tcr-covid"]
    assert names(hub, Query(tags=("covid", "absent"))) == []
    assert names(hub, Query(base="plasmid/MiniLM")) == ["ann/notes"]
    assert names(hub, Query(licence="mit", base="plasmid/antiberty")) == ["lab/tcr-covid"]
    assert names(hub, Query(min_metric=0.7, max_epsilon=4)) == ["lab/TCR-flu"]
    assert names(hub, Query(tags=("lora",), author="lab", sort="metric"), ann) == [
        "lab/secret",
        "lab/TCR-flu",
        "lab/tcr-covid",
    ]


@pytest.mark.parametrize("near", [finding.NEAR, ()], ids=["near", "everywhere"])
def test_what_is_asked_is_found(shown: Hub, near: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "NEAR", near)
    monkeypatch.setattr(finding, "FEW", 1 if near else finding.FEW)
    check_all(shown)


@pytest.mark.parametrize("near", [finding.NEAR, ()], ids=["near", "everywhere"])
@pytest.mark.parametrize("sort", ["updated", "created", "downloads", "metric", "epsilon", "name"])
def test_pages_follow_one_another(shown: Hub, near: Any, sort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "NEAR", near)
    query = Query(sort=sort)
    whole, cursor, seen = names(shown, query), None, []
    for _ in range(9):
        page = shown.finding.search(query, viewer=None, limit=1, cursor=cursor)
        seen += [str(found.repo.id) for found in page.found]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == whole
    assert len(whole) == (2 if sort == "epsilon" else 3)


def test_what_a_list_says_of_one(shown: Hub) -> None:
    found = shown.finding.search(Query(search="flu"), viewer=None).found[0]
    assert (found.title, found.metric, found.epsilon) == (
        "About lab/TCR-flu: T-cell receptors of us",
        0.81,
        2.0,
    )
    assert {"lora", "license:apache-2.0", "base_model:plasmid/antiberty"} <= set(found.tags)
    assert not [tag for tag in found.tags if "receptors" in tag], "words of the title are no tags of the card"
    assert found == shown.finding.about(found.repo)


def test_retired_ones_can_be_left_out(filled: Hub) -> None:
    filled.registry.retire(RepoId("lab", "tcr-covid"), "withdrawn", by=filled.accounts.get("ann"))
    assert names(filled, Query(search="tcr", retired=False)) == ["lab/TCR-flu"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "!", "W10", "WyJuYW1lIiwgInoiLCAxXQ", "WyJ1cGRhdGVkIiwgMWU5OTksIDFd"]
)
def test_a_strange_cursor_is_refused(shown: Hub, cursor: str) -> None:
    with refusal("hub.cursor"):
        shown.finding.search(Query(), viewer=None, cursor=cursor)


def test_an_unknown_order_is_refused(shown: Hub) -> None:
    with refusal("hub.sort"):
        shown.finding.search(Query(sort="key"), viewer=None)  # type: ignore[arg-type]


def test_a_new_card_replaces_what_is_found(filled: Hub) -> None:
    repo, ann = filled.registry.get(RepoId("lab", "tcr-covid")), filled.accounts.get("ann")
    filled.registry.branch(repo, "draft")
    blob = filled.blobs.put(b"---\nlicense: gpl-3.0\n---\n")
    filled.registry.keep(blob)
    filled.registry.commit(repo, "draft", [Add("README.md", blob.sha256)], title="t", by=ann)
    assert names(filled, Query(licence="gpl-3.0")) == []
    filled.registry.commit(repo, "main", [Add("README.md", blob.sha256)], title="t", by=ann)
    assert names(filled, Query(licence="gpl-3.0")) == ["lab/tcr-covid"]
    assert names(filled, Query(tags=("covid",))) == []
    assert filled.registry.card(repo) == {"license": "gpl-3.0"}


def test_lineage_goes_both_ways(filled: Hub) -> None:
    ann = filled.accounts.get("ann")
    base = filled.registry.create(RepoId("lab", "base"), by=ann)
    one = adapter(filled, "lab/one", base="LAB/base")
    adapter(filled, "lab/two", base="lab/base", private=True)
    merge = adapter(filled, "ann/merge", base="[lab/one, lab/two, other/gone]", relation="merge")
    seen = filled.finding
    assert [(edge.kind, edge.name) for edge in seen.children(base, viewer=None)] == [("base", "lab/one")]
    assert [edge.name for edge in seen.children(base, viewer=ann)] == ["lab/two", "lab/one"]
    assert [(edge.kind, edge.name) for edge in seen.descendants(base, viewer=None)] == [
        ("base", "lab/one"),
        ("merge", "ann/merge"),
    ]
    parents = {(edge.kind, edge.name): edge.repo for edge in seen.parents(merge, viewer=None)}
    assert parents == {
        ("merge", "lab/one"): one,
        ("merge", "lab/two"): None,
        ("merge", "other/gone"): None,
        ("run", "run-of-ann/merge"): None,
    }
