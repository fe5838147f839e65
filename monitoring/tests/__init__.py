"""Tests of what watches the bank."""
