"""Requests that try to exhaust resources: bodies close to the limit of 1 MiB, and long request heads."""

import json
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

MAX_BYTES = 1024 * 1024 - 256
KEYS_ON_ANY_ROUTE = 60_000
KEYS_IN_A_TRANSFER = 118_000
_UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class CraftedRequest:
    """A request and its name in the results."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    subject: str = field(default="mallory")


def names() -> Iterator[str]:
    """Yield distinct short names."""
    for letters in product(string.ascii_letters + string.digits, repeat=3):
        yield "".join(letters)


def unknown_fields(count: int) -> bytes:
    """Return `count` unknown fields of a JSON object, without braces."""
    return ",".join(f'"{name}":1' for name, _ in zip(names(), range(count))).encode()


def repeat_to_limit(item: str, separator: str = ",") -> bytes:
    """Return an item repeated up to the size limit."""
    times = (MAX_BYTES - 512) // (len(item.encode()) + len(separator))
    return separator.join([item] * times).encode()


def post_paths(account: str) -> list[str]:
    """Return the paths of all POST routes; most ids in them do not exist."""
    of_account = ("deposits", "withdrawals", "holds", "freeze", "unfreeze", "close")
    return [
        *("/transfers", "/transfers:batch", "/accounts", "/reversals", "/transaction-groups"),
        f"/transaction-groups/{_UNKNOWN_ID}/reversals",
        *(f"/accounts/{account}/{what}" for what in of_account),
        *(f"/holds/{_UNKNOWN_ID}/{what}" for what in ("captures", "extensions", "voids")),
    ]


def get_paths(account: str) -> list[str]:
    """Return the paths of all GET routes."""
    return [
        *("/accounts", f"/accounts/{account}", f"/accounts/{account}/balance", f"/accounts/{account}/holds"),
        *(f"/holds/{_UNKNOWN_ID}", "/transactions", f"/transactions/{_UNKNOWN_ID}"),
        *(f"/statements/{account}", "/flags", "/reconciliation"),
    ]


def transfer(account: str, **more: object) -> str:
    """Return the body of a transfer, with additional fields if given."""
    return json.dumps({"from_account": account, "to_account": _UNKNOWN_ID, "amount": 1, "currency": "USD", **more})


def batch_of_unknown_fields(account: str) -> bytes:
    """Return a batch of 1,000 transfers close to the size limit, padded with unknown fields."""
    free_bytes = MAX_BYTES // 1000 - len(transfer(account, key="key-0000")) - 4
    extra = unknown_fields(free_bytes // len('"aaa":1,')).decode()
    items = (transfer(account, key=f"key-{number:04}")[:-1] + "," + extra + "}" for number in range(1000))
    return ('{"transfers":[' + ",".join(items) + "]}").encode()


def invalid_transfers(account: str) -> dict[str, bytes]:
    """Return bodies of a transfer that are invalid only at their end, by name."""
    known = transfer(account)[:-1].encode()
    inner = MAX_BYTES // 2 - 512
    digits = b"1" * (MAX_BYTES - 512)
    return {
        "118,000 unknown fields": known + b"," + unknown_fields(KEYS_IN_A_TRANSFER) + b"}",
        "nested arrays": known + b',"reference":' + b"[" * inner + b"]" * inner + b"}",
        "nested objects": known + b',"reference":' + b'{"a":' * (inner // 4) + b"1" + b"}" * (inner // 4) + b"}",
        "unclosed arrays": b"[" * MAX_BYTES,
        "an integer of a million digits": known + b',"amount":' + digits + b"}",
        "a fraction of a million digits": known + b',"amount":0.' + digits + b"}",
        "a large exponent": known + b',"amount":1e' + b"9" * 100_000 + b"}",
        "a repeated field": known + b"," + repeat_to_limit('"amount":1') + b"}",
        "a string of a megabyte": known + b',"reference":"' + b"x" * (MAX_BYTES - 512) + b'"}',
        "a string of escapes": known + b',"reference":"' + b"\\u0041" * (MAX_BYTES // 6 - 100) + b'"}',
        "lone surrogates": known + b',"reference":"' + b"\\ud800" * (MAX_BYTES // 6 - 100) + b'"}',
        "whitespace": b" " * MAX_BYTES,
        "a field name of a megabyte": b'{"' + b"x" * (MAX_BYTES - 512) + b'":1}',
        "an array of numbers": b"[" + repeat_to_limit("0") + b"]",
        "an array of objects": b"[" + repeat_to_limit("{}") + b"]",
        "invalid UTF-8": b'{"reference":"' + b"\xff" * (MAX_BYTES - 512) + b'"}',
    }


def invalid_batches(account: str) -> dict[str, bytes]:
    """Return bodies of a batch, by name."""
    return {
        "1 MB batch with unknown fields": batch_of_unknown_fields(account),
        "a batch of 340,000 empty objects": b'{"transfers":[' + repeat_to_limit("{}") + b"]}",
        "a batch of 500,000 numbers": b'{"transfers":[' + repeat_to_limit("0") + b"]}",
        "a batch of nulls": b'{"transfers":[' + repeat_to_limit("null") + b"]}",
        "nested batches": b'{"transfers":' * 60_000 + b"[]" + b"}" * 60_000,
        "a batch without keys": b'{"transfers":[' + ",".join([transfer(account)] * 1000).encode() + b"]}",
    }


def bodies(account: str, repeats: int) -> list[CraftedRequest]:
    """Return all requests with bodies, each `repeats` times, grouped by kind."""
    many = b"{" + unknown_fields(KEYS_ON_ANY_ROUTE) + b"}"
    made: list[tuple[str, str, str, bytes]] = [
        *((name, "POST", "/transfers", body) for name, body in invalid_transfers(account).items()),
        *((name, "POST", "/transfers:batch", body) for name, body in invalid_batches(account).items()),
        *(("60,000 keys on any route", "POST", path, many) for path in post_paths(account)),
        *(("60,000 keys on any route", "GET", path, many) for path in get_paths(account)),
    ]
    assert all(len(body) < 1024 * 1024 for *_, body in made), "NGINX would reject it before the service"
    return [CraftedRequest(name, method, path, body) for name, method, path, body in made for _ in range(repeats)]


def heads(account: str) -> list[CraftedRequest]:
    """Return requests with the longest queries or headers that NGINX accepts."""
    queries: dict[str, Callable[[int], str]] = {
        "a query of unknown parameters": lambda n: f"x{n:04}=1",
        "a repeated parameter": lambda n: "limit=1",
        "percent-encoded parameters": lambda n: "%25%32%35=%00",
    }
    made = [
        CraftedRequest(name, "GET", f"{path}?" + "&".join(map(part, range(7_000 // (len(part(0)) + 1)))))
        for name, part in queries.items()
        for path in get_paths(account)
    ]
    long = "x" * 7_500
    headers = {
        "a long token": (("Authorization", f"Bearer {long}"),),
        "a token of dots": (("Authorization", "Bearer " + "." * 7_500),),
        "a long Accept": (("Accept", ",".join(["text/csv;q=0.1"] * 450)),),
        "a long cursor": (),
        "a long key": (("Idempotency-Key", long),),
        "a long trace": (("traceparent", long), ("baggage", long)),
    }
    made += [
        CraftedRequest(name, "GET", f"/transactions?cursor={long[:7_000]}" if "cursor" in name else path, headers=given)
        for name, given in headers.items()
        for path in get_paths(account)[:3]
    ]
    return made


def refused_batch(account: str, target: str) -> CraftedRequest:
    """Return a batch of 1,000 transfers from an account without funds."""
    key = uuid.uuid4().hex
    items = [
        {"key": f"{key}-{number}", "from_account": account, "to_account": target, "amount": 1, "currency": "USD"}
        for number in range(1000)
    ]
    return CraftedRequest(
        "1,000 refused transfers", "POST", "/transfers:batch", json.dumps({"transfers": items}).encode()
    )
