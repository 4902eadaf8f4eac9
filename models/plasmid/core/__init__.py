"""What every layer may use: the exception tree, canonical JSON, the state folder, atomic writes.

Nothing here knows about models, sites or runs, and nothing here imports more than the standard
library and ``rfc8785``.
"""
