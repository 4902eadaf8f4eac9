"""The frame of the ``plasmid`` command: verbs found by entry points, one shape of output."""
