"""Thresholds of the fraud rules in any currency."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache

from shared.currencies import decimals

_MAX_AMOUNT = 10**15
_PAIR = re.compile(r"(?:([A-Z]{3})\s*=\s*)?([0-9]{1,16})", re.ASCII)

# Approximate units per US dollar (2025): only for telling large payments from small ones. A currency that is not listed
# counts like the dollar.
_UNITS_PER_DOLLAR = """
AED 3.67 AFN 70 ALL 85 AMD 385 ANG 1.8 AOA 915 ARS 1400 AUD 1.5 AWG 1.8 AZN 1.7 BAM 1.7 BBD 2 BDT 122 BGN 1.7 BHD 0.38
BIF 2950 BMD 1 BND 1.3 BOB 6.9 BOV 2.7 BRL 5.4 BSD 1 BTN 88 BWP 13.5 BYN 3.2 BZD 2 CAD 1.4 CDF 2500 CHE 0.8 CHF 0.8
CHW 0.8 CLF 0.024 CLP 950 CNY 7.1 COP 4000 COU 10 CRC 505 CUP 24 CVE 95 CZK 21 DJF 178 DKK 6.5 DOP 63 DZD 130 EGP 48
ERN 15 ETB 145 EUR 0.86 FJD 2.3 FKP 0.75 GBP 0.75 GEL 2.7 GHS 11 GIP 0.75 GMD 72 GNF 8650 GTQ 7.7 GYD 209 HKD 7.8
HNL 26 HRK 6.5 HTG 131 HUF 335 IDR 16500 ILS 3.3 INR 88 IQD 1310 IRR 42000 ISK 125 JMD 160 JOD 0.71 JPY 150 KES 129
KGS 87 KHR 4000 KMF 425 KPW 900 KRW 1420 KWD 0.31 KYD 0.83 KZT 525 LAK 21700 LBP 89500 LKR 303 LRD 180 LSL 17.3 LYD 5.4
MAD 9.2 MDL 17 MGA 4450 MKD 53 MMK 2100 MNT 3590 MOP 8 MRU 40 MUR 45 MVR 15.4 MWK 1735 MXN 18.4 MXV 2.2 MYR 4.2 MZN 64
NAD 17.3 NGN 1460 NIO 36.8 NOK 10 NPR 141 NZD 1.75 OMR 0.385 PAB 1 PEN 3.4 PGK 4.2 PHP 58 PKR 281 PLN 3.65 PYG 7050
QAR 3.64 RON 4.4 RSD 101 RUB 80 RWF 1450 SAR 3.75 SBD 8.2 SCR 14 SDG 600 SEK 9.4 SGD 1.3 SHP 0.75 SLE 23 SLL 23000
SOS 571 SRD 39 SSP 4500 STN 21 SVC 8.75 SYP 11000 SZL 17.3 THB 32.5 TJS 9.3 TMT 3.5 TND 2.9 TOP 2.4 TRY 42 TTD 6.8
TWD 31 TZS 2450 UAH 42 UGX 3500 USD 1 USN 1 UYI 6.3 UYU 40 UYW 0.025 UZS 12000 VED 200 VES 200 VND 26300 VUV 120 WST 2.8
XAD 0.24 XAF 565 XCD 2.7 XCG 1.8 XOF 565 XPF 103 YER 240 ZAR 17.3 ZMW 23 ZWG 27
""".split()
_RATES: Mapping[str, Decimal] = {
    code: Decimal(units) for code, units in zip(_UNITS_PER_DOLLAR[::2], _UNITS_PER_DOLLAR[1::2], strict=True)
}


@dataclass(frozen=True, slots=True)
class Amounts:
    """An amount in US cents, converted to other currencies except those with an explicit amount."""

    cents: int
    explicit: Mapping[str, int] = field(default_factory=dict)

    def in_currency(self, currency: str) -> int:
        """Return the amount in minor units of a currency."""
        return self.explicit.get(currency) or _equivalent(self.cents, currency)


@cache
def _equivalent(cents: int, currency: str) -> int:
    units = _RATES.get(currency, Decimal(1)) * cents / 100
    return max(1, int(units * 10 ** decimals(currency)))


@cache
def parse(text: str) -> Amounts:
    """Parse a setting: an amount in US cents, then any number of `CUR=amount` pairs, separated by commas.

    Raises ValueError with the reason.
    """
    cents, explicit = 0, {}
    for part in text.split(","):
        match = _PAIR.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is neither an amount in US cents nor CUR=amount in minor units")
        currency, amount = match[1], int(match[2])
        if not 1 <= amount <= _MAX_AMOUNT:
            raise ValueError(f"{part.strip()!r} is not between 1 and {_MAX_AMOUNT}")
        if currency in explicit or (currency is None and cents):
            raise ValueError(f"{currency or 'the amount in US cents'} is given twice")
        if currency is None:
            cents = amount
        else:
            explicit[currency] = amount
    if not cents:
        raise ValueError("the amount in US cents is missing; example: 1000000,EUR=900000")
    return Amounts(cents, explicit)
