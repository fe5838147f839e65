"""transaction-service: transaction history, statements, fraud rules and reconciliation."""
