"""The site's audit log: an append-only Merkle log, its files, export and verification."""
