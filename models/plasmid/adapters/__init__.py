"""Adapters: schema, folder, card, merge, export, prediction."""
