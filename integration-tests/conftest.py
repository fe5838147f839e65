"""Makes `support` importable from the suites below; each has fixtures of its own."""
