"""Amounts as decimal numbers of their currency."""

import pytest

from shared.currencies import major_units


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (0, "USD", "0.00"),
        (5, "USD", "0.05"),
        (-5, "USD", "-0.05"),
        (-1050, "EUR", "-10.50"),
        (1050, "JPY", "1050"),
        (-7, "JPY", "-7"),
        (1, "KWD", "0.001"),
        (-10001, "CLF", "-1.0001"),
        (10**18, "USD", "10000000000000000.00"),
    ],
)
def test_an_amount_has_the_decimals_of_its_currency(amount: int, currency: str, text: str):
    assert major_units(amount, currency) == text
