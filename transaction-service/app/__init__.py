"""transaction-service: history, statements, fraud rules and reconciliation; it owns what happened."""
