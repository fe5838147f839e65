"""Account numbers."""

import secrets


def new_account_number() -> str:
    """Return 14 random digits and two check digits (ISO 7064 MOD 97-10, as in an IBAN)."""
    digits = f"{secrets.randbelow(9 * 10**13) + 10**13}"
    return f"{digits}{98 - int(digits + '00') % 97:02d}"
