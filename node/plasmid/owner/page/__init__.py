"""The node's own page: server-rendered, on loopback, in a process of its own, for the site's owner."""
