"""Adapters as a service: the ASGI application, on loopback at a site or wrapped by Ray Serve."""
