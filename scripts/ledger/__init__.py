"""Tamper evidence of the ledger: the stand-alone verifier, and its use on a running stack."""
