"""The revisions of the hub's tables, one a file."""
