"""Federations in one process, in a thread or deployed: sites, coordinators and their documents."""
