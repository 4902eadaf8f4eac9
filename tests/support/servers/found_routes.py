"""The routes of the coordinator, found in its application, and whom each lets in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute

from plasmid.link.routes import MemberOfRole

Address = tuple[str, str]
"""Method and path."""
OPEN = {("GET", "/v1/card"), ("POST", "/v1/enrol")}
"""What everyone may call: the only list that is kept by hand."""
ARGUMENTS = {"digest": "0" * 64, "run": "run-1"}


def api_routes(routes: Any) -> Iterator[APIRoute]:
    """Yield every route of a FastAPI application, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            router = getattr(route, "original_router", route)  # newer FastAPI keeps what it includes whole
            yield from api_routes(getattr(router, "routes", []))


def found(app: Any) -> dict[Address, frozenset[str]]:
    """Return the roles that may call each route; none where nobody is asked who he is."""
    return {
        (method, route.path): _roles(route) for route in api_routes(app.routes) for method in route.methods
    }


def guarded(app: Any) -> dict[Address, frozenset[str]]:
    """Return :func:`found` without the open routes."""
    return {address: roles for address, roles in found(app).items() if address not in OPEN}


def path_of(address: Address) -> str:
    """Return the path with something in the place of each parameter."""
    parts = address[1].split("/")
    return "/".join(ARGUMENTS.get(part[1:-1], "alpha") if part.startswith("{") else part for part in parts)


def _roles(route: APIRoute) -> frozenset[str]:
    asked = [part.call.roles for part in route.dependant.dependencies if isinstance(part.call, MemberOfRole)]
    return frozenset.intersection(*asked) if asked else frozenset()
