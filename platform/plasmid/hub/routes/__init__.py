"""The hub's HTTP routes, one file per thing that clients do."""
