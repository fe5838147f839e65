"""HTTP endpoints beside those of `app.api`, and what they have in common."""
