"""The domain: plain data, commands and events, without clock, network or database; decisions are in `app.ledger`."""
