"""The platform's verbs. One file, one verb; the first line of its docstring is its help text."""
