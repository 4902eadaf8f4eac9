"""Approvals by people: files, register, quorum, review."""
