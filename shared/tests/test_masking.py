"""Masking of free text: masked patterns and names, unchanged text, and running time."""

import time

import pytest

from shared.observability.masking import mask_text

# Split, because secret scanners find whole headers in tests as well.
_KEY = "PRIVATE KEY"
SECRETS = {
    "https://host/path?a=b&password=@0000000000A&c=d": "0000000000A",
    "https://host/path?password=first@second@third;a=b": "third",
    "https://host/path%3Fpassword%3D@secret&a=b": "secret",
    "GB29 NWBK 6016 1331 9268 19": "NWBK",
    "paid to gb29nwbk60161331926819.": "nwbk",
    "DE89 3704 0044 0532 0130 00 was": "3704",
    "FR76-3000-6000-0112-3456-7890-189": "3000",
    "MT84MALT011000012345MTLCAST001S": "MALT",
    "NO93 8601 1117 947": "8601",
    "NL91\u00a0ABNA\u00a00417\u00a01643\u00a000": "ABNA",
    "card 4111 1111 1111 1111, ok": "4111",
    "4111-1111-1111-1111": "4111",
    "3782 822463 10005": "822463",
    "\u0664\u0660\u0660\u0660\u0661\u0662\u0663\u0664\u0661\u0662\u0663\u0665": "\u0664\u0660",
    "postgresql+asyncpg://bank:hun/ter2@host:5432/bank": "ter2",
    "postgresql%3A%2F%2Fbank%3Ahunter2%40host": "hunter2",
    "nats://hunter2@nats:4222": "hunter2",
    "nats://a:hunter2@n1:4222,nats://b:hunter2@n2:4222": "hunter2",
    "https://hooks.slack.com/services/T00000000/B00000000/hunter2hunter2hunter2": "hunter2",
    "hooks.slack.com%2Fservices%2FT00000000%2FB00000000%2Fhunter2hunter2": "hunter2",
    "T0AB12CD3/B0AB12CD3/hunter2hunter2hunter2": "hunter2",
    "https://hooks.slack.com/triggers/T00000000/123/hunter2": "hunter2",
    "Cookie: theme=dark; session=hunter2": "hunter2",
    'Authorization: Digest username="ada", response="hunter2"': "hunter2",
    "BEARER hunter2hunter2": "hunter2",
    "bearer%20hunter2hunter2": "hunter2",
    "pin=1234": "1234",
    "<password>hunter2</password>": "hunter2",
    "password%3Dhunter2%26a%3Db": "hunter2",
    "password=>hunter2": "hunter2",
    "password=a,b;hunter2": "hunter2",
    '{"text": "{\\"sessionId\\": \\"hunter2 2\\"}"}': "hunter2",
    f"-----BEGIN PGP {_KEY} BLOCK-----\\nhunter2\\n-----END": "hunter2",
    f"-----BEGIN OPENSSH {_KEY}-----\nhunter2": "hunter2",
    "xoxb-1234567890-hunter2": "hunter2",
    "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY": "UAHUDX",
    "owner=ada": "ada",
    "mail to ada%40example.org": "ada",
    "amount: 10.50": "50",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_masked_in_every_form(text: str) -> None:
    for written in (text, repr(text), f"[{text}]", f"first line\n{text}\nlast line"):
        assert SECRETS[text] not in mask_text(written, hide_amounts=True)


HARMLESS = [
    "request log-01a22413-bb90-74e4-be98-046179217476, account 01a22413-bb91-7261-8123-733274152112",
    "GET /api/v1/accounts/0198c5f0-7d3a-7c1e-9d4b-2f6a1b3c4d5e 200 in 1.25 ms at 10:00:00",
    *(f"{country}12cd34-1234-7abc-8def-0123456789ab" for country in ("be", "de", "ee", "ad", "ae", "ba", "fa")),
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 be12ab34cd56ef78 ee92f3577b34da6a3ce929d0e0e4736a",
    "2026-11-27 22:51:03.123456+00:00, 2026-11-27T22:51:03Z, 20261127-225103, 2026-11-27-22-51-03",
    "batch of 256 took 0.0123 s; 99 % of 123456789, count=1000, replicas: 4, seq=77, position 12345",
    "authors: 5, passed=3, compass=north, spin: 5, keys=2, name=account-service, subject=bank.entry.posted",
    "request_id=0198c5f07d3a7c1e, idempotency key k-1 of 2, lsn 0/16B3748, 10.0.0.1:8000, 10.0.0.2:8000",
    "account-service did not answer (http://127.0.0.1:8000/x?after=5): 503; retry in10 minutes, no12 some words",
    "image bank/account-service:9b2a1a1@sha256:0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_unchanged(text: str) -> None:
    assert mask_text(text, hide_amounts=True) == text


LONG = [
    *(
        "a",
        "1",
        "=",
        '"',
        "'",
        "\\",
        "\\n",
        "a.b-",
        "://",
        "://a@",
        "x@",
        "%40",
        "a%40",
        "a@b",
        "%3A%2F%2F",
        "https://a@b ",
    ),
    *(
        "password",
        "password=",
        "password=,a",
        "token:",
        "owner='",
        'name="\\',
        "a=>",
        "<a>",
        "'\\\"password=",
        "Bearer ",
    ),
    *(
        "eyJ.",
        "DE8",
        "DE89 3704 ",
        "GB29 NWBK ",
        "no1",
        "4111 ",
        "1 ",
        "\\xa0",
        "\u0661",
        "amount=1.",
        "Authorization: ",
    ),
    *("-----BEGIN", "-----BEGIN PRIVATE KEY-----", "-----END", "hooks.slack.com/", "T123456789/B", "xoxb-", "key ("),
]


def test_masking_takes_linear_time() -> None:
    """Ten times the text takes about ten times as long; quadratic time would be a hundred times."""

    def seconds(size: int, part: str) -> float:
        text = part * (size // len(part)) + ":"
        begun = time.thread_time()
        mask_text(text, hide_amounts=True)
        return time.thread_time() - begun

    def is_linear(part: str) -> bool:
        return seconds(100_000, part) < 0.1 + 30 * seconds(10_000, part)

    for part in LONG:
        # A garbage collection or a busy machine slows some attempts down, but not all.
        assert any(is_linear(part) for _ in range(5)), part
