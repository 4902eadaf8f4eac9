"""Helpers that several tests share, by what they stand for."""
