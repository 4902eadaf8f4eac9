"""The trusted part of a site: it decides what may be computed and lets one protected vector out.

Small on purpose; imports neither torch, transformers, flwr nor ray (a test asserts it).
"""
