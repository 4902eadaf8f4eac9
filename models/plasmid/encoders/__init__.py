"""Encoders with an adapter: loading, batches, many adapters at once."""
