"""Prometheus metrics common to all services."""
