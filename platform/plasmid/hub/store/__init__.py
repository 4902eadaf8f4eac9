"""The hub's registry: tables, blobs, revisions."""
