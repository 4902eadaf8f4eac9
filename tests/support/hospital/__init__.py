"""Invented patients, their tables and files, and queries over them."""
