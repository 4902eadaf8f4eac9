"""From a view to the rows of a contract."""
