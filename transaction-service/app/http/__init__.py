"""HTTP responses that need more than an endpoint of app.api."""
