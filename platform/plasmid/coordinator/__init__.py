"""Runs and rounds: Ray actors around an explicit state machine in a database. No torch here."""
