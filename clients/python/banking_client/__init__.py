"""Client of distributed-banking-ops: `banking_client.api` has a function for each operation."""

from .client import BankingClient, NoResponseError, ProblemError

__all__ = ["BankingClient", "NoResponseError", "ProblemError"]
