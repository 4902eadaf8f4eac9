"""Reading a site's tables under a contract. No torch here."""
