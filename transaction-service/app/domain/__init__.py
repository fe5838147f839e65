"""The domain: plain functions on plain data, without clock, network or database; see also app.fraud, app.statements."""
