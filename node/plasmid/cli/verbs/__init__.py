"""The verbs of a node. One file, one verb; the first line of its docstring is its help text."""
