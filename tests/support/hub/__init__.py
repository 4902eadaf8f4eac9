"""A hub on loopback, and every verb of its stock clients."""
