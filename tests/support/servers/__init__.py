"""Servers and processes that tests start: databases, proxies, sandboxes, warm interpreters."""
