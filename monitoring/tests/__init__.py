"""Tests of the monitoring configuration."""
