"""The public halves of what may be computed over a secure sum. One computation, one file."""
