"""Transparency log of the ledger: leaves, Merkle tree and signed checkpoints, as functions on plain data."""
