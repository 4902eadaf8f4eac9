"""The owner's side of a site: page, doctor, outbox, red team."""
