"""Webhooks that the autoscaler has to refuse, on the composed stack, while it is awake and could act."""

from composed import ComposedBank
from drills.autoscale_webhooks import send


def test_forged_replayed_oversized_and_unknown_webhooks_are_refused_and_nothing_happens(bank: ComposedBank):
    rows, wrong = send(bank)
    print("\n".join(rows))
    assert wrong == []
