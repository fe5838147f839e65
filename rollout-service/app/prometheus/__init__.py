"""Metrics of rollout-service."""
