"""Documents of statements; those that can be long are written in parts, so that they are never in memory completely."""
