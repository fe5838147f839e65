"""Helpers for tests, drills and local stacks; the services do not import it."""
