"""Decisions that several commands share, and those about holds; `app.ledger` calls them."""
