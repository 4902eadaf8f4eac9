"""What is here: lists of models, one model, its files' names, its branches and its history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from plasmid.core.errors import HubError
from plasmid.hub import answers
from plasmid.hub.routes.request_context import Body, Desk, plain, true_of
from plasmid.hub.store import finding as find
from plasmid.hub.store.ordering import Sort
from plasmid.hub.store.records import Commit, FileEntry, Repo
from plasmid.hub.store.registry import Registry

PAGE = 100
MOST_A_PAGE = 1000
TREE_PAGE = 1000
HISTORY_PAGE = 50
LOOK_BACK = 200
"""Revisions that are looked at for the one that a file came with."""
MAX_CONFIG_BYTES = 2**20
_SORTS: dict[str, Sort] = {
    "lastModified": "updated",
    "createdAt": "created",
    "downloads": "downloads",
    "metric": "metric",
    "epsilon": "epsilon",
    "name": "name",
    "id": "name",
}


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    registry = desk.hub.registry

    @router.get("/api/models")
    def models(
        request: Request,
        search: str = "",
        author: str | None = None,
        filter: Annotated[list[str] | None, Query()] = None,  # noqa: A002 - the protocol's word
        pipeline_tag: str | None = None,
        gated: bool | None = None,
        sort: str = "lastModified",
        limit: Annotated[int, Query(ge=1)] = PAGE,
        cursor: str | None = None,
        expand: Annotated[list[str] | None, Query()] = None,
        full: bool = False,
        card_data: Annotated[bool, Query(alias="cardData")] = False,
        base: str | None = None,
        licence: str | None = None,
        metric: float | None = None,
        epsilon: float | None = None,
    ) -> Response:
        tags = [tag for one in filter or () for tag in one.split(",") if tag]
        query = find.Query(
            search=search,
            author=author,
            tags=(*tags, *([pipeline_tag] if pipeline_tag else [])),
            base=base,
            licence=licence,
            min_metric=metric,
            max_epsilon=epsilon,
            sort=_SORTS.get(sort, "updated"),
        )
        most = min(limit, MOST_A_PAGE)
        page = desk.hub.finding.search(query, viewer=desk.caller(request), limit=most, cursor=cursor)
        found = [one for one in page.found if gated is None or bool(one.repo.gated) == gated]
        cards = card_data or full or "cardData" in (expand or ())
        said = [answers.of_found(one, registry.card(one.repo) if cards else None) for one in found]
        headers = {}
        if page.cursor is not None:
            kept = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
            query_text = urlencode([*kept, ("cursor", page.cursor)])
            headers["Link"] = f'<{desk.url}/api/models?{query_text}>; rel="next"'
        return JSONResponse([answers.only(one, expand or ()) for one in said], headers=headers)

    @router.get("/api/models/{owner}/{name}")
    @router.get("/api/models/{owner}/{name}/revision/{revision}")
    def model(
        request: Request,
        owner: str,
        name: str,
        revision: str = "main",
        blobs: bool = False,
        expand: Annotated[list[str] | None, Query()] = None,
    ) -> Response:
        repo, _ = desk.repo(request, owner, name)
        commit = desk.revision(repo, revision)
        said = describe(desk, repo, commit, blobs=blobs)
        return JSONResponse(answers.only(said, expand or ()), headers=answers.retired(repo))

    @router.get("/api/models/{owner}/{name}/tree/{revision}")
    @router.get("/api/models/{owner}/{name}/tree/{revision}/{path:path}")
    def tree(
        request: Request,
        owner: str,
        name: str,
        revision: str,
        path: str = "",
        recursive: bool = False,
        expand: bool = False,
        cursor: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1)] = TREE_PAGE,
    ) -> Response:
        repo, _ = desk.repo(request, owner, name)
        commit = desk.revision(repo, revision)
        items = tree_items(registry, commit, plain(path).strip("/"), recursive=recursive, expand=expand)
        end = cursor + min(limit, TREE_PAGE)
        headers = {"X-Repo-Commit": commit.id}
        if end < len(items):
            kept = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
            here = f"{desk.url}{request.scope['raw_path'].decode('ascii').partition('?')[0]}"
            headers["Link"] = f'<{here}?{urlencode([*kept, ("cursor", end)])}>; rel="next"'
        return JSONResponse(items[cursor:end], headers=headers)

    @router.post("/api/models/{owner}/{name}/paths-info/{revision}")
    def paths_info(
        request: Request, owner: str, name: str, revision: str, body: Body
    ) -> list[dict[str, Any]]:
        repo, _ = desk.repo(request, owner, name)
        commit = desk.revision(repo, revision)
        paths = body.get("paths", [])
        wanted = set(paths if isinstance(paths, list) else [paths])
        expand = true_of(body.get("expand", False))
        items = tree_items(registry, commit, "", recursive=True, expand=expand)
        return [item for item in items if item["path"] in wanted]

    @router.get("/api/models/{owner}/{name}/refs")
    def refs(request: Request, owner: str, name: str, include_prs: str = "") -> dict[str, Any]:
        repo, _ = desk.repo(request, owner, name)
        return answers.refs(registry.refs(repo), with_requests=true_of(include_prs))

    @router.get("/api/models/{owner}/{name}/commits/{revision}")
    def commits(
        request: Request, owner: str, name: str, revision: str, p: Annotated[int, Query(ge=0)] = 0
    ) -> Response:
        repo, _ = desk.repo(request, owner, name)
        commit = desk.revision(repo, revision)
        found = registry.history(commit, after=p * HISTORY_PAGE, limit=HISTORY_PAGE + 1)
        headers = {"X-Total-Count": str(registry.count_history(commit))}
        if len(found) > HISTORY_PAGE:
            here = f"{desk.url}/api/models/{repo.id}/commits/{commit.id}"
            headers["Link"] = f'<{here}?p={p + 1}>; rel="next"'
        return JSONResponse([answers.commit(one) for one in found[:HISTORY_PAGE]], headers=headers)

    return router


def describe(desk: Desk, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Return all that the protocol says of a model at *commit*."""
    registry = desk.hub.registry
    entries = registry.tree(commit)
    found = desk.hub.finding.about(repo)
    names = {entry.path for entry in entries}
    library = answers.library_of(found.tags) or ("peft" if "adapter_config.json" in names else None)
    said = answers.model(repo, found.tags, registry.card(repo), library)
    said |= {
        "sha": commit.id,
        "lastModified": answers.time_text(commit.created),
        "siblings": [answers.sibling(entry, blobs=blobs) for entry in entries],
        "usedStorage": sum(entry.size for entry in entries),
        "spaces": [],
    }
    return said


def tree_items(
    registry: Registry, commit: Commit, folder: str, *, recursive: bool, expand: bool
) -> list[dict[str, Any]]:
    """Return the items below *folder*, "" for the root, each folder before what it holds.

    Raises
    ------
    HubError
        ``hub.entry_missing``: there is no such folder.
    """
    entries = registry.tree(commit)
    last = came_with(registry, commit, entries) if expand else {}
    start = f"{folder}/" if folder else ""
    below = [entry for entry in entries if entry.path.startswith(start)]
    if folder and not below:
        raise HubError("hub.entry_missing", f"there is no folder {folder!r} in {commit.repo} at {commit.id}.")
    folders: dict[str, list[FileEntry]] = {}
    for entry in below:
        parts = entry.path[len(start) :].split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folders.setdefault(start + "/".join(parts[:depth]), []).append(entry)
    items = [answers.file_of_tree(entry, last.get(entry.path)) for entry in below]
    for path, held in folders.items():
        newest = max((last[entry.path] for entry in held), key=lambda one: one.created) if expand else None
        items.append(answers.folder_of_tree(path, (entry.etag for entry in held), newest))
    if not recursive:
        items = [item for item in items if "/" not in item["path"][len(start) :]]
    return sorted(items, key=lambda item: str(item["path"]))


def came_with(registry: Registry, commit: Commit, entries: Iterable[FileEntry]) -> dict[str, Commit]:
    """Return, by path, the revision that each file's content came with, at most :data:`LOOK_BACK` back."""
    looked_for = {entry.path: entry.sha256 for entry in entries}
    found, newer = {}, commit
    for older in registry.history(commit, after=1, limit=LOOK_BACK):
        held = {entry.path: entry.sha256 for entry in registry.tree(older)}
        for path in [path for path, sha256 in looked_for.items() if held.get(path) != sha256]:
            found[path] = newer
            del looked_for[path]
        if not looked_for:
            break
        newer = older
    return found | dict.fromkeys(looked_for, newer)
