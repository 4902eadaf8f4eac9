"""Causal language models with an adapter: prompts, templates, generation."""
