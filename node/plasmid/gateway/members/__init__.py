"""Members of a federation as a site knows them: peers, projects, revocations."""
