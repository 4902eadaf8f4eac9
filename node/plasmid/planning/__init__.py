"""Estimates before a run: memory, traffic, time, privacy."""
