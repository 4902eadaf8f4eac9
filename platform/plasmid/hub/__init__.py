"""The hub: a registry of base models and adapters that stock Hugging Face clients use."""
