"""Canary analysis: samples from Prometheus, a pure verdict on them, and a record of every verdict."""
