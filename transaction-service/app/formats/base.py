"""What the formats of statements have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.statements import Line, Statement, Totals


@dataclass(frozen=True, slots=True)
class Options:
    """What a document contains besides the statement: the bank's name and the time at which it is created.

    `byte_order_mark` makes CSV start with one.
    """

    bank_name: str
    created_at: datetime
    byte_order_mark: bool = False


def filename(statement: Statement, extension: str) -> str:
    """Return a file name for a document of the statement."""
    return f"statement-{statement.account_id}-{statement.start:%Y-%m-%d}-{statement.end:%Y-%m-%d}.{extension}"


class Format(ABC):
    """A statement as a document in parts: head, pages of entries, tail. A document without its tail is incomplete."""

    media_type: str
    # Whether the head contains the totals of all entries.
    announces_totals = False

    def __init__(self, statement: Statement, options: Options) -> None:
        self._statement = statement
        self._options = options

    @abstractmethod
    def head(self, announced: Totals | None) -> bytes:
        """Return the part before the entries; `announced` are the totals of all entries, if the format has them."""

    @abstractmethod
    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return a page of entries."""

    @abstractmethod
    def tail(self, totals: Totals) -> bytes:
        """Return the part after the entries, with their totals."""
