"""The application: how a request becomes part of a database transaction, and what it is answered."""
