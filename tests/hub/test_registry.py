"""Repositories, commits, branches and tags, on both databases."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime, timedelta

import pytest

from plasmid.core.errors import HubError
from plasmid.hub.settings import Hub
from plasmid.hub.store import revisions
from plasmid.hub.store.blob_retention import collect
from plasmid.hub.store.names import RepoId
from plasmid.hub.store.records import Add, Commit, Copy, Delete, Operation, Repo
from plasmid.hub.store.registry import Registry

LAB = RepoId("lab", "tcr")
KNOWN = "dc2d6599828ad7916f5fc28083203acc3a539512"


def refusal(code: str) -> pytest.RaisesExc[HubError]:
    return pytest.RaisesExc(HubError, check=lambda error: error.code == code)


def made(hub: Hub, name: RepoId = LAB) -> Repo:
    return hub.registry.create(name, by=hub.accounts.get("ann"))


def stored(hub: Hub, data: bytes) -> str:
    blob = hub.blobs.put(data)
    hub.registry.keep(blob)
    return blob.sha256


def commit(
    hub: Hub, repo: Repo, *operations: Operation, parent: str | None = None, branch: str = "main"
) -> Commit:
    return hub.registry.commit(
        repo, branch, operations, title="change", by=hub.accounts.get("ann"), parent=parent
    )


def files(hub: Hub, at: Commit) -> dict[str, int]:
    return {entry.path: entry.size for entry in hub.registry.tree(at)}


def test_a_repository_begins_with_an_empty_commit(hub: Hub) -> None:
    repo = made(hub)
    head = hub.registry.resolve(repo, "main")
    assert (head.id, head.parent, hub.registry.tree(head)) == (repo.head, None, [])
    assert hub.registry.get(RepoId.parse("LAB/TCR")) == repo
    with refusal("hub.exists"):
        made(hub, RepoId("lab", "TCR"))
    with refusal("hub.account_missing"):
        made(hub, RepoId("nobody", "x"))
    with refusal("hub.repo_missing"):
        hub.registry.get(RepoId("lab", "other"))


def test_operations_apply_in_order_and_revisions_stay(hub: Hub) -> None:
    repo = made(hub)
    first = commit(
        hub,
        repo,
        Add("a/x", stored(hub, b"one")),
        Add("a/y", stored(hub, b"three")),
        Add("b", stored(hub, b"")),
    )
    second = commit(
        hub,
        repo,
        Copy("c", "a/x"),
        Delete("a", folder=True),
        Copy("d", "a/y", first.id[:10]),
        Add("b", stored(hub, b"22"), lfs=True),
    )
    assert files(hub, first) == {"a/x": 3, "a/y": 5, "b": 0}
    assert files(hub, second) == {"b": 2, "c": 3, "d": 5}
    entry = hub.registry.file(second, "c")
    assert entry.etag == entry.oid == hashlib.sha1(b"blob 3\0one").hexdigest()
    assert hub.registry.file(second, "b").etag == hashlib.sha256(b"22").hexdigest()
    assert [seen.id for seen in hub.registry.history(second)] == [second.id, first.id, repo.head]
    assert [seen.id for seen in hub.registry.history(second, after=1, limit=1)] == [first.id]
    assert hub.registry.count_history(second) == 3
    assert second.parent == first.id


BAD = [
    (Delete("none"), "hub.entry_missing"),
    (Delete("none", folder=True), "hub.entry_missing"),
    (Copy("x", "none"), "hub.entry_missing"),
    (Copy("x", "b", "none"), "hub.revision_missing"),
    (Copy("../x", "b"), "hub.path"),
    (Copy("B", "b"), "hub.path_conflict"),
    (Copy("b/c", "b"), "hub.path_conflict"),
    (Add("x", "0" * 64), "hub.blob_missing"),
]


def test_a_commit_that_cannot_be_made_leaves_nothing(hub: Hub) -> None:
    repo = made(hub)
    before = commit(hub, repo, Add("b", stored(hub, b"22")))
    new = Add("new", stored(hub, b"new"))
    for operation, code in BAD:
        with refusal(code):
            commit(hub, repo, new, operation)
    assert hub.registry.resolve(repo, "main") == before
    assert files(hub, before) == {"b": 2}


def test_the_same_upload_again_makes_no_commit(hub: Hub) -> None:
    repo = made(hub)
    first = commit(hub, repo, Add("a", stored(hub, b"one")))
    assert commit(hub, repo, Add("a", stored(hub, b"one"))) == first


def test_a_file_too_many_is_refused(hub: Hub) -> None:
    repo = made(hub)
    blob = stored(hub, b"x")
    with refusal("hub.too_many_files"):
        commit(hub, repo, *(Add(f"{number}", blob) for number in range(10_001)))
    assert files(hub, hub.registry.resolve(repo, "main")) == {}


def test_an_id_is_the_digest_of_what_a_commit_says(hub: Hub) -> None:
    """A known answer: the same on both databases, and in every release."""
    registry = Registry(hub.engine, hub.blobs, clock=lambda: datetime(2026, 11, 26, 12, tzinfo=UTC))
    ann = hub.accounts.get("ann")
    repo = registry.create(LAB, by=ann)
    add = Add("a", stored(hub, b"one"))
    assert registry.commit(repo, "main", [add], title="t", by=ann).id == KNOWN


def test_who_builds_on_an_old_head_is_told(hub: Hub) -> None:
    repo = made(hub)
    first = commit(hub, repo, Add("a", stored(hub, b"one")), parent=repo.head)
    with refusal("hub.commit_conflict"):
        commit(hub, repo, Add("a", stored(hub, b"two")), parent=repo.head)
    assert hub.registry.resolve(repo, "main") == first
    assert commit(hub, repo, Add("a", stored(hub, b"two")), parent=first.id[:7]).parent == first.id


def test_of_two_writers_racing_one_gets_the_branch(hub: Hub) -> None:
    repo = made(hub)
    blobs = [stored(hub, bytes([number])) for number in range(8)]
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            outcomes.append(commit(hub, repo, Add("a", blobs[number]), parent=repo.head).id)
        except HubError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["hub.commit_conflict"] * 7
    head = hub.registry.resolve(repo, "main")
    assert head.id in outcomes
    assert hub.registry.count_history(head) == 2


def test_writers_without_a_parent_lose_nothing(hub: Hub) -> None:
    repo = made(hub)
    blob = stored(hub, b"x")
    threads = [
        threading.Thread(target=commit, args=(hub, repo, Add(f"file{number}", blob))) for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = hub.registry.resolve(repo, "main")
    assert files(hub, head) == {f"file{number}": 1 for number in range(6)}
    assert hub.registry.count_history(head) == 7


def test_whatever_fails_in_the_transaction_nothing_is_seen(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = made(hub)
    publish = revisions.publish

    def then_crash(*arguments: object, **options: object) -> bool:
        publish(*arguments, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(revisions, "publish", then_crash)
    with pytest.raises(KeyboardInterrupt):
        commit(hub, repo, Add("README.md", stored(hub, b"---\ntags: [seen]\n---\n")))
    assert hub.registry.resolve(repo, "main").id == repo.head
    assert hub.finding.about(hub.registry.get(LAB)).tags == ()
    monkeypatch.undo()
    assert commit(hub, repo, Add("a", stored(hub, b"one"))).parent == repo.head


def test_branches_and_tags(hub: Hub) -> None:
    repo = made(hub)
    first = commit(hub, repo, Add("a", stored(hub, b"one")))
    hub.registry.branch(repo, "feature/x", repo.head)
    hub.registry.tag(repo, "v1", message="first")
    second = commit(hub, repo, Add("b", stored(hub, b"two")), branch="feature/x")
    refs = hub.registry.refs(repo)
    assert [(ref.name, ref.commit) for ref in refs.branches] == [("main", first.id), ("feature/x", second.id)]
    assert [(ref.name, ref.commit, ref.message) for ref in refs.tags] == [("v1", first.id, "first")]
    for name in ("v1", "refs/tags/v1", "main", "refs/heads/main", "HEAD", first.id, first.id[:7]):
        assert hub.registry.resolve(repo, name) == first
    for name in ("v2", "refs/heads/v1", first.id[:6], "f" * 40, "a\0b"):
        with refusal("hub.revision_missing"):
            hub.registry.resolve(repo, name)
    with refusal("hub.ref_exists"):
        hub.registry.branch(repo, "v1")
    with refusal("hub.revision"):
        hub.registry.tag(repo, first.id)
    with refusal("hub.revision_missing"):
        commit(hub, repo, Add("b", stored(hub, b"three")), branch="v1")
    with refusal("hub.ref_protected"):
        hub.registry.delete_branch(repo, "main")
    hub.registry.delete_tag(repo, "v1")
    hub.registry.delete_branch(repo, "feature/x")
    assert files(hub, hub.registry.resolve(repo, second.id)) == {"b": 3}


def test_settings_and_retirement(hub: Hub) -> None:
    made(hub)
    with refusal("hub.terms"):
        hub.registry.update(LAB, gated="auto")
    changed = hub.registry.update(LAB, gated="manual", terms="Be kind.", private=True)
    assert (changed.gated, changed.terms, changed.private) == ("manual", "Be kind.", True)
    with refusal("hub.reason"):
        hub.registry.retire(LAB, "two\nlines", by=hub.accounts.get("ann"))
    retired = hub.registry.retire(LAB, "a site withdrew", by=hub.accounts.get("ann"))
    assert retired.retired == "a site withdrew"
    assert retired.updated >= changed.updated


def test_downloads_are_counted(hub: Hub) -> None:
    repo = made(hub)
    for _ in range(3):
        hub.registry.count_download(repo)
    hub.registry.close()
    assert hub.registry.get(LAB).downloads == 3


def test_a_gate_asks_for_terms_and_new_terms_ask_again(hub: Hub) -> None:
    made(hub)
    gates, ann, bob = hub.registry.gates, hub.accounts.get("ann"), hub.accounts.get("bob")
    repo = hub.registry.update(LAB, gated="auto", terms="one")
    assert gates.access(repo, None, writes=False) == "terms"
    assert gates.access(repo, bob, writes=False) == "terms"
    assert gates.access(repo, ann, writes=True) == "open"
    assert gates.accept(repo, bob) == gates.access(repo, bob, writes=False) == "accepted"
    repo = hub.registry.update(LAB, gated="manual", terms="two")
    assert gates.access(repo, bob, writes=False) == "terms"
    assert gates.accept(repo, bob) == gates.accept(repo, bob) == "pending"
    assert [(asked.account, asked.state) for asked in gates.requests(repo)] == [("bob", "pending")]
    gates.decide(repo, "bob", grant=True)
    assert gates.access(repo, bob, writes=False) == "accepted"
    gates.decide(repo, "bob", grant=False)
    assert gates.accept(repo, bob) == gates.access(repo, bob, writes=False) == "rejected"
    with refusal("hub.request_missing"):
        gates.decide(repo, "eve", grant=True)


def test_deleting_frees_what_nobody_else_uses_after_a_day(hub: Hub) -> None:
    repo, other = made(hub), made(hub, RepoId("lab", "other"))
    alone, shared = stored(hub, b"alone"), stored(hub, b"shared")
    commit(hub, repo, Add("a", alone), Add("b", shared))
    commit(hub, other, Add("b", shared))
    hub.registry.delete(LAB)
    now = datetime.now(UTC)
    assert collect(hub.engine, hub.blobs, now).blobs == 0
    done = collect(hub.engine, hub.blobs, now + timedelta(days=1, minutes=1))
    assert (done.blobs, done.size) == (1, 5)
    assert (hub.blobs.has(alone), hub.blobs.has(shared)) == (False, True)
    assert hub.registry.find_blob(alone) is None
    with refusal("hub.blob_missing"):
        commit(hub, other, Add("a", alone))


def test_a_collect_takes_what_was_stored_and_never_recorded(hub: Hub) -> None:
    lost = hub.blobs.put(b"the hub ended here").sha256
    kept = stored(hub, b"about to be committed")
    now = datetime.now(UTC)
    assert collect(hub.engine, hub.blobs, now).blobs == 0
    assert hub.registry.find_blob(kept) is not None
    later = now + timedelta(days=1, minutes=1)
    assert Registry(hub.engine, hub.blobs, clock=lambda: later).find_blob(kept) is not None
    assert collect(hub.engine, hub.blobs, later).blobs == 1
    assert (hub.blobs.has(lost), hub.blobs.has(kept)) == (False, True)
