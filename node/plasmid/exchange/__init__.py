"""Adapters to and from a hub: push, pull, merge, describe."""
