"""Disclosure control: suppression of small cells, overlap of released sums."""
