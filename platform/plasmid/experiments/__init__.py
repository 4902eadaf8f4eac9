"""Baselines, comparisons and their charts."""
