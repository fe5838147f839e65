"""Request bodies: limits on their cost, and rejection of duplicate names."""

import json
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.http import bodies, problems
from shared.http.bodies import StrictBody
from shared.http.problems import Problem

MIB = 1024 * 1024


class Item(StrictBody):
    """A nested body."""

    amount: int = 0
    text: str | None = None


class Basket(StrictBody):
    """A body with nested bodies."""

    max_nodes = 25_100

    items: list[Item] = []
    first: Item | None = None
    amount: int = 0


def refusal(content: bytes, model: type[StrictBody] = Basket) -> Problem:
    with pytest.raises((Problem, ValidationError)) as caught:
        bodies.parse(content, model)
    return problems.from_exception(caught.value)


DUPLICATES = [
    '{"amount": 1, "amount": 2}',
    '{"amount": 1, "amount": 1}',
    r'{"amount": 1, "amoun\u0074": 2}',
    r'{"\u0061mount": 1, "amount": 2}',
    '{"amount" : 1,\n"amount"\t:2}',
    '{"items": [{"amount": 1}, {"amount": 1, "amount": 2}]}',
    '{"items": [{"text": "a:b", "text": "c"}]}',
    r'{"items": [{"text": "\": \\", "text": ":"}]}',
    '{"first": {"amount": 1, "amount": 2}}',
    '{"first": {"amount": 1}, "first": {"amount": 2}}',
    '{"first": null, "first": {"amount": 1}}',
    '{"items": [], "items": []}',
]


@pytest.mark.parametrize("text", DUPLICATES)
def test_duplicate_names_are_rejected(text: str) -> None:
    assert (refusal(text.encode()).code, refusal(text.encode()).status) == ("malformed-request", 400)
    with pytest.raises(Problem) as caught:
        bodies.loads(text.encode(), 1000)
    assert caught.value.code == "malformed-request" and "duplicate name" in caught.value.detail


TEXT = st.text('ab:,{["\\\\\n é😀', max_size=20)  # structural characters and characters that need escapes
ITEMS = st.builds(dict, amount=st.integers(0, 2**60), text=TEXT | st.none())
BASKETS = st.fixed_dictionaries(
    {}, optional={"items": st.lists(ITEMS, max_size=4), "first": ITEMS | st.none(), "amount": st.integers(0, 9)}
)


@given(BASKETS, st.booleans(), st.sampled_from([None, 1]))
def test_same_name_in_different_objects_is_accepted(basket: dict[str, Any], ascii_only: bool, indent: int | None):
    content = json.dumps(basket, ensure_ascii=ascii_only, indent=indent).encode()
    body = bodies.parse(content, Basket)
    assert body.model_dump(exclude_unset=True) == basket
    assert bodies.loads(content, 1000) == orjson.loads(content)


def test_empty_body_is_an_empty_object() -> None:
    assert bodies.parse(b"", Basket) == Basket()


HOSTILE = {
    "unknown fields": b"{" + b",".join(b'"%06d":1' % n for n in range(95_000)) + b"}",
    "unknown fields of items": b'{"items":[' + b",".join(b'{"%06d":1}' % n for n in range(80_000)) + b"]}",
    "empty objects": b'{"items":[' + b",".join([b"{}"] * 340_000) + b"]}",
    "empty lists": b'{"items":[' + b",".join([b"[]"] * 340_000) + b"]}",
    "numbers": b'{"items":[' + b",".join([b"1"] * 500_000) + b"]}",
    "strings": b'{"items":[' + b",".join([b'""'] * 340_000) + b"]}",
    "opening brackets": b"[" * MIB,
    "nested lists": b"[" * (MIB // 2) + b"]" * (MIB // 2),
    "nested objects": b'{"a":' * 170_000 + b"1" + b"}" * 170_000,
    "a long number": b'{"amount":' + b"9" * (MIB - 20) + b"}",
    "a long fraction": b'{"amount":0.' + b"9" * (MIB - 20) + b"}",
    "a large exponent": b'{"amount":1e' + b"9" * (MIB - 20) + b"}",
    "a long name": b'{"' + b"x" * (MIB - 20) + b'":1}',
    "a name of escapes": b'{"' + b"\\u00e9" * 170_000 + b'":1}',
    "quotes": b'"' * MIB,
    "escaped quotes": b'"' + b'\\"' * (MIB // 2 - 1),
    "backslashes": b'"' + b"\\" * (MIB - 2),
    "colons": b":" * MIB,
    "blanks": b" " * MIB,
    "surrogates": b'{"text":"' + b"\\ud800" * 170_000 + b'"}',
    "names of surrogates": b"{" + b",".join([b'"\\ud800":1'] * 90_000) + b"}",
    "not UTF-8": b'{"text":"' + b"\xff" * (MIB - 20) + b'"}',
    "one missing brace": b'{"items":[' + b",".join([b'{"amount":1'] * 80_000),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("model", [Item, Basket])
def test_adversarial_body_is_cheap_and_gets_a_short_response(name: str, model: type[StrictBody]) -> None:
    content = HOSTILE[name]
    assert len(content) <= MIB + 10
    tracemalloc.start()
    try:
        problem = refusal(content, model)
        response = bytes(problems.response(problem, "/path", "request-1").body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.status in (400, 422) and len(problem.errors) <= problems.MAX_ERRORS
    assert len(response) < 8 * 1024 and peak < 8 * MIB


def test_only_the_first_errors_of_a_batch_are_listed() -> None:
    problem = refusal(orjson.dumps({"items": [{"amount": "1", "unknown": 2}] * 1000}))
    assert (problem.code, len(problem.errors)) == ("validation-failed", 20)
    assert problem.errors[1]["pointer"] == "/items/0/unknown" and "1980 more" in problem.detail


def test_body_at_the_limit_is_accepted_with_any_text() -> None:
    items = [{"amount": n, "text": '{[:,"\\' * 20} for n in range(1000)]
    assert len(bodies.parse(orjson.dumps({"items": items}), Basket).items) == 1000


def test_loads_has_the_same_limits() -> None:
    for name in ("unknown fields", "nested lists", "opening brackets", "numbers"):
        with pytest.raises(Problem) as caught:
            bodies.loads(HOSTILE[name], 20_000)
        assert caught.value.status in (400, 422)
    deep = b"[" * 900 + b"]" * 900
    assert bodies.loads(deep, 20_000)
