"""A statement as CAMT.053.001.08, the XML of ISO 20022 (BankToCustomerStatement).

`tests/camt053.xsd` has the rules of the standard for the elements that are written here. Ids are UUIDs without hyphens,
because the standard has 34 characters for accounts and 35 for references.
"""

import re
from collections.abc import Sequence
from html import escape
from uuid import UUID, uuid5

from app.formats.base import Format
from app.statements import Line, Totals
from shared.currencies import major_units
from shared.ids import rfc3339

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>'
)
# Namespace of the ids of statements.
_STATEMENTS = UUID("2f0c8b9e-63a5-4a0e-9a52-8d6f4a3c7e11")
# XML 1.0 cannot contain these, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class CamtFormat(Format):
    """A statement as an XML document with opening and closing balance, totals and entries."""

    media_type = "application/xml"
    announces_totals = True

    def head(self, announced: Totals | None) -> bytes:
        """Return group header, account, balances and totals."""
        if announced is None:
            raise ValueError("CAMT.053 has the totals before the entries; pass them")
        statement = self._statement
        start, end = rfc3339(statement.start), rfc3339(statement.end)
        # The same statement has the same id, so that a receiver recognizes it when it is requested again.
        id_ = uuid5(_STATEMENTS, f"{statement.account_id} {start} {end} {statement.closing.seq}").hex
        created = rfc3339(self._options.created_at)
        return "".join(
            (
                _HEAD,
                f"<GrpHdr><MsgId>{id_}</MsgId><CreDtTm>{created}</CreDtTm></GrpHdr>",
                f"<Stmt><Id>{id_}</Id><CreDtTm>{created}</CreDtTm>",
                f"<FrToDt><FrDtTm>{start}</FrDtTm><ToDtTm>{end}</ToDtTm></FrToDt>",
                f"<Acct>{_account(statement.account_id)}<Ccy>{statement.currency}</Ccy>",
                f"<Svcr><FinInstnId><Nm>{_text(self._options.bank_name)}</Nm></FinInstnId></Svcr></Acct>",
                self._balance("OPBD", statement.opening.balance, start),
                self._balance("CLBD", statement.closing.balance, end),
                self._summary(announced),
            )
        ).encode()

    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return a page of entries."""
        return "".join(map(self._entry, lines)).encode()

    def tail(self, totals: Totals) -> bytes:
        """Return whether the statement is complete, and the end of the document."""
        completeness = "complete" if self._statement.complete else "incomplete"
        return f"<AddtlStmtInf>{completeness}</AddtlStmtInf></Stmt></BkToCstmrStmt></Document>\n".encode()

    def _amount(self, amount: int) -> str:
        """Return an amount and its direction; the standard has no negative amounts."""
        currency = self._statement.currency
        value = major_units(abs(amount), currency)
        return f'<Amt Ccy="{currency}">{value}</Amt><CdtDbtInd>{_direction(amount)}</CdtDbtInd>'

    def _balance(self, code: str, balance: int, timestamp: str) -> str:
        kind = f"<Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>"
        return f"<Bal>{kind}{self._amount(balance)}<Dt><DtTm>{timestamp}</DtTm></Dt></Bal>"

    def _summary(self, totals: Totals) -> str:
        def decimal(amount: int) -> str:
            return major_units(amount, self._statement.currency)

        net = totals.credits - totals.debits
        return (
            f"<TxsSummry><TtlNtries><NbOfNtries>{totals.count}</NbOfNtries>"
            f"<Sum>{decimal(totals.credits + totals.debits)}</Sum>"
            f"<TtlNetNtry><Amt>{decimal(abs(net))}</Amt><CdtDbtInd>{_direction(net)}</CdtDbtInd></TtlNetNtry>"
            "</TtlNtries>"
            f"<TtlCdtNtries><Sum>{decimal(totals.credits)}</Sum></TtlCdtNtries>"
            f"<TtlDbtNtries><Sum>{decimal(totals.debits)}</Sum></TtlDbtNtries></TxsSummry>"
        )

    def _entry(self, line: Line) -> str:
        id_ = _short(line.transaction_id)
        # The codes of ISO 20022 for payments: received or issued credit transfer, inside the bank or other.
        family = "RCDT" if line.amount > 0 else "ICDT"
        domain = f"<Cd>PMNT</Cd><Fmly><Cd>{family}</Cd><SubFmlyCd>{_sub_family(line.type)}</SubFmlyCd></Fmly>"
        reversal = "<RvslInd>true</RvslInd>" if line.type == "reversal" else ""
        return (
            f"<Ntry><NtryRef>{line.seq}</NtryRef>{self._amount(line.amount)}{reversal}<Sts><Cd>BOOK</Cd></Sts>"
            f"<BookgDt><DtTm>{rfc3339(line.created_at)}</DtTm></BookgDt><AcctSvcrRef>{id_}</AcctSvcrRef>"
            f"<BkTxCd><Domn>{domain}</Domn><Prtry><Cd>{line.type}</Cd></Prtry></BkTxCd>"
            f"<NtryDtls><TxDtls><Refs><AcctSvcrRef>{id_}</AcctSvcrRef></Refs>{_counterparty(line)}{_reference(line)}"
            "</TxDtls></NtryDtls></Ntry>"
        )


def _direction(amount: int) -> str:
    return "DBIT" if amount < 0 else "CRDT"


def _sub_family(type_: str) -> str:
    return "BOOK" if type_ == "transfer" else "OTHR"


def _short(id_: str) -> str:
    return id_.replace("-", "")


def _account(account_id: str) -> str:
    return f"<Id><Othr><Id>{_short(account_id)}</Id></Othr></Id>"


def _counterparty(line: Line) -> str:
    if line.counterparty is None:
        return ""
    party = "DbtrAcct" if line.amount > 0 else "CdtrAcct"
    return f"<RltdPties><{party}>{_account(line.counterparty)}</{party}></RltdPties>"


def _reference(line: Line) -> str:
    return f"<RmtInf><Ustrd>{_text(line.reference)}</Ustrd></RmtInf>" if line.reference else ""


def _text(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text), quote=False)
