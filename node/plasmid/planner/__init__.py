"""From a document to the numbers of a run."""
