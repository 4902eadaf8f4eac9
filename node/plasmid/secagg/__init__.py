"""The mathematics of what leaves a site: ring, key stream, secure aggregation. No I/O, no torch."""
