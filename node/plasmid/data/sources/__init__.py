"""Connectors: one file each, found by the ``kind`` of a connection. See :mod:`plasmid.data.source`."""
