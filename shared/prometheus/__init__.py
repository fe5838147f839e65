"""Prometheus metrics that services have in common; names are those of the design."""
