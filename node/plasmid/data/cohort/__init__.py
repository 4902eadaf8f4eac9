"""From a cohort document to one checked SELECT."""
