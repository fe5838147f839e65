"""Operations of transaction-service: one function each."""

from .get_statement import get_statement as get_statement
from .get_transaction import get_transaction as get_transaction
from .list_flags import list_flags as list_flags
from .list_transactions import list_transactions as list_transactions
from .reconciliation import reconciliation as reconciliation
