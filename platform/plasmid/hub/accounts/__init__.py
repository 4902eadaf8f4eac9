"""The hub's accounts: users, tokens, gates, limits."""
