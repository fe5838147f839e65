"""What ISO 4217 says of currencies that is not in its list of codes: the decimals of their minor units."""

from collections.abc import Mapping

# Metals, bond market units, baskets, and codes for tests and for no currency: ISO 4217 gives them no minor unit.
NO_MINOR_UNIT = frozenset(
    {"XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA", "XXX"},
)

# The other currencies have two decimals.
_DECIMALS: Mapping[str, int] = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}


def decimals(currency: str) -> int:
    """Return how many decimals the minor unit of a currency has; of one that is not in ISO 4217's list, two."""
    return _DECIMALS.get(currency, 2)
