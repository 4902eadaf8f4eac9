"""Locks a worker in: the port, its levels, and which of them can be had here."""
