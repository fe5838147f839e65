"""Releases that are broken on purpose, and their rollout on the composed stack."""
