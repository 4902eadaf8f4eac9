"""Research scripts: they make the tables of docs/results.md and of the recipes."""
