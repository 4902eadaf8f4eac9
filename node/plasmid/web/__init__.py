"""Parts shared by every page and service: templates, style, request guard, loopback server."""
