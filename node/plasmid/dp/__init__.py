"""Differential privacy: noise, accounting, budgets, claims, the canary audit."""
