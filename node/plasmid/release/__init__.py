"""Results of runs: attestations, provenance, adapter folders and their verification."""
