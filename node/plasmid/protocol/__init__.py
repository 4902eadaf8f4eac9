"""What both sides must agree on: identities, signed messages, manifests, bodies. No I/O."""
