"""Client of a hub that speaks the Hugging Face protocol."""
