"""A site's keys: the keystore and its passphrase."""
