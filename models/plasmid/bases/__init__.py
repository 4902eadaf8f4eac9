"""Base models and adapters: catalogue, import, offline loading, heads, adapter <-> flat vector."""
