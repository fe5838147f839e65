"""Decimals of the minor units of currencies (ISO 4217); the list of codes does not contain them."""

from collections.abc import Mapping

# Metals, bond market units, baskets, test codes and "no currency": ISO 4217 defines no minor unit for them.
NO_MINOR_UNIT = frozenset(
    {"XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"},
)

# All other currencies have two decimals.
_DECIMALS: Mapping[str, int] = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}


def decimals(currency: str) -> int:
    """Return the number of decimals of the minor unit of a currency; two for unknown codes."""
    return _DECIMALS.get(currency, 2)


def major_units(amount: int, currency: str) -> str:
    """Return an amount in minor units as a decimal number of the currency, for example `-10.50`."""
    places = decimals(currency)
    if places == 0:
        return str(amount)
    whole, fraction = divmod(abs(amount), 10**places)
    return f"{'-' if amount < 0 else ''}{whole}.{fraction:0{places}}"
