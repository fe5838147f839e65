"""The application: events become history and flags; the history is reconciled with the ledger."""
