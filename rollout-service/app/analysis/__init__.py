"""Canary analysis: samples from Prometheus, a pure verdict on them, and a stored record of each analysis."""
