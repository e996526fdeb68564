"""Use cases: they own the order of things and every transaction."""
