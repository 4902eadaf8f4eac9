"""Prediction at scale: a table of any size, in blocks, with a journal; at a site, on rows of a view."""
