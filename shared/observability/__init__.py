"""Masking of logs and tracing."""
