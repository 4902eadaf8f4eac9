"""The owner's policy: rules, what they are asked about, and the one function that decides."""
