"""What the services have in common: events, outbox, group commit, problems, auth, health, logs and metrics.

This package imports from no service.
"""
