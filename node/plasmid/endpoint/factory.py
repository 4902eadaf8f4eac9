"""The service for a base model: an encoder's, or a causal model's."""

from __future__ import annotations

from plasmid.bases.store import ensure_model
from plasmid.endpoint.chat import ChatService
from plasmid.endpoint.service import Service, Settings


def open_service(settings: Settings) -> Service | ChatService:
    """Return the service for the base of *settings*, loaded.

    Raises
    ------
    ModelError, UsageError, HubError, Problem
        As :meth:`plasmid.endpoint.service.Service.open`.
    """
    base = ensure_model(settings.base)
    return ChatService.open(settings, base) if base.entry.causal else Service.open(settings, base)
