"""account-service: accounts and the double-entry ledger; it owns the money."""
