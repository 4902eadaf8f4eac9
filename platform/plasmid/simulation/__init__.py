"""Many sites in one Ray cluster: the run's own rounds and strategies, for studies and comparisons."""
