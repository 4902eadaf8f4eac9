"""Recipes and queries: schema, loading, digest, the catalogue and its demonstration data. No torch here."""
