"""What our own client asks beyond the Hugging Face protocol: is it retired, and its lineage, both ways."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from plasmid.hub import answers
from plasmid.hub.routes.request_context import Body, Desk, text_of
from plasmid.hub.store.lineage import Edge, Lineage


def routes(desk: Desk) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    lineage = Lineage(desk.hub.engine)

    @router.get("/api/plasmid/models/{owner}/{name}")
    def about(request: Request, owner: str, name: str) -> dict[str, Any]:
        repo, account = desk.repo(request, owner, name)
        found = desk.hub.finding.about(repo)
        return {
            "id": str(repo.id),
            "retired": repo.retired,
            "lineage": {
                "parents": [_edge(edge) for edge in lineage.parents(repo, viewer=account)],
                "children": [_edge(edge) for edge in lineage.children(repo, viewer=account)],
                "descendants": [_edge(edge) for edge in lineage.descendants(repo, viewer=account)],
            },
            "facts": {
                "title": found.title,
                "tags": list(found.tags),
                "metric": found.metric,
                "epsilon": found.epsilon,
                "downloads": repo.downloads,
                "updated": answers.time_text(repo.updated),
            },
        }

    @router.post("/api/plasmid/models/{owner}/{name}/retire")
    def retire(request: Request, owner: str, name: str, body: Body) -> dict[str, Any]:
        repo, account = desk.repo(request, owner, name, "admin")
        assert account is not None
        retired = desk.hub.registry.retire(repo.id, text_of(body, "reason"), by=account)
        built = lineage.descendants(retired, viewer=account)
        said = {"id": str(retired.id), "retired": retired.retired}
        return {**said, "descendants": [_edge(edge) for edge in built]}

    return router


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "kind": edge.kind,
        "name": edge.name,
        "revision": edge.revision,
        "here": edge.repo is not None,
        "retired": edge.repo.retired if edge.repo else None,
    }
