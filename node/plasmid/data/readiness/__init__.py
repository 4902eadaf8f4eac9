"""Readiness reports: counts about a view, without cells."""
