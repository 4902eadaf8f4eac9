"""The encoder of small molecules that comes with Plasmid, and how it was made.

``vocabulary`` is its tokenizer, ``corpus`` the molecules that it has read and what it had to tell of them,
``pretraining`` the command that made its weights.
"""
