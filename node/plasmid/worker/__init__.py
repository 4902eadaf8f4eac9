"""The only training loop, and the warm worker that runs it."""
