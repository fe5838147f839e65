"""The application: executes requests in database transactions, and reads the ledger."""
