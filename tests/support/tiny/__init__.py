"""Models, adapters and tasks of test size."""
