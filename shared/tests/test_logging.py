"""Logging: one JSON object per line, without secrets from any source."""

import io
import json
import logging
import math
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import assume, given, settings

from shared.logging_config import (
    REQUEST_ID,
    TRACE_PARENT,
    JsonFormatter,
    MaskingFilter,
    configure,
)
from shared.observability.masking import mask_text
from shared.testing.fixtures import examples
from shared.testing.timing import assert_cpu_below
from shared.tests.secret_forms import AFTER, BEFORE, SECRETS, Secret

STATIC = {"service": "s", "version": "v", "track": "stable"}


class Log:
    """A dedicated logger that collects its lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(JsonFormatter(STATIC))
        handler.addFilter(MaskingFilter())
        self.logger = logging.Logger("test", logging.DEBUG)
        self.logger.addHandler(handler)

    def lines(self) -> list[dict[str, Any]]:
        """Return the logged lines and clear them."""
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        return found

    def line(self) -> dict[str, Any]:
        """Return the only logged line."""
        (line,) = self.lines()
        return line


@pytest.fixture
def log() -> Log:
    """A dedicated log."""
    return Log()


def texts(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON document, including names."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    else:
        yield str(value)


class Holder:
    """An object whose `repr` contains a secret."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Holder {self.text}>"


def by_message(logger: logging.Logger, text: str) -> None:
    logger.warning(text)


def by_argument(logger: logging.Logger, text: str) -> None:
    logger.info("one %s two %r", text, Holder(text))


def by_mapping_of_arguments(logger: logging.Logger, text: str) -> None:
    logger.info("%(text)s %(more)s", {"text": text, "more": [{"deep": (text,)}]})


def by_structured_message(logger: logging.Logger, text: str) -> None:
    logger.info({"deep": [text]})  # type: ignore[arg-type]


def by_extra(logger: logging.Logger, text: str) -> None:
    logger.debug("x", extra={"text": text, "object": Holder(text), "bytes": text.encode(), "color_message": text})


def by_nested_extra(logger: logging.Logger, text: str) -> None:
    logger.error("x", extra={"outer": {"list": [1, (text, {text: None})], text: {"set": {text}}}})


def by_exception(logger: logging.Logger, text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed")


def by_chain_of_exceptions(logger: logging.Logger, text: str) -> None:
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            error.add_note(text)
            raise ExceptionGroup("several", [ValueError(text), OSError(5, text)]) from error
    except ExceptionGroup as error:
        logger.error("failed: %r", error, exc_info=error)


def by_stack(logger: logging.Logger, text: str) -> None:
    record = logger.makeRecord("test", logging.INFO, "f", 1, "x", (), None, sinfo=f"stack {text}")
    record.exc_text = f"formatted before: {text}"
    logger.handle(record)


def by_arguments_that_do_not_fit(logger: logging.Logger, text: str) -> None:
    logger.info("%d %s", text)


def by_a_library(logger: logging.Logger, text: str) -> None:
    library = logging.Logger("third.party", logging.DEBUG)
    library.parent = logger
    library.debug("call of %s", [text], extra={"response": {"text": text}})


PLACES = [
    by_message,
    by_argument,
    by_mapping_of_arguments,
    by_structured_message,
    by_extra,
    by_nested_extra,
    by_exception,
    by_chain_of_exceptions,
    by_stack,
    by_arguments_that_do_not_fit,
    by_a_library,
]
# `make drills DRILL=masking` sets a higher number.
RECORDS = int(os.environ.get("MASKING_RECORDS", examples(1500)))


@settings(max_examples=math.ceil(RECORDS / len(PLACES)), deadline=None)
@given(secret=SECRETS, before=BEFORE, after=AFTER)
def test_no_secret_gets_into_a_line(secret: Secret, before: str, after: str) -> None:
    text, core = secret
    assume((before + text + after).count(core) == 1)  # a password like "postgresql+a" also occurs outside
    for place in PLACES:
        log = Log()
        place(log.logger, before + text + after)
        line = log.line()
        found = "\n".join(texts(line))
        assert "could not be masked" not in found, "or else this shows nothing"
        assert core not in found and core not in found.replace("\\\\", "\\"), place.__name__


@pytest.mark.parametrize(
    "name", ["password", "new_password", "Authorization", "apiKey", "api-key", "token", "private_key", "Set-Cookie"]
)
def test_values_with_secret_names_are_removed(log: Log, name: str) -> None:
    for value in ("hunter2", 12345, ["hunter2"], {"a": "hunter2"}, b"hunter2"):
        log.logger.info("x", extra={"data": {name: value}, "list": [{name: value}]})
        assert log.line()["data"] == {name: "[removed]"}
    log.logger.info("%s", {name: "hunter2"})
    assert "hunter2" not in str(log.line())


def test_names_owners_and_emails_are_hidden(log: Log) -> None:
    person = {"name": "Ada Lovelace", "owner": "ada", "email": "ada@example.org", "currency": "USD"}
    hidden = {"name": "[hidden]", "owner": "[hidden]", "email": "[hidden]", "currency": "USD"}
    log.logger.info("account %s", person, extra={"account": person})
    line = log.line()
    assert line["account"] == hidden and line["message"] == f"account {hidden}"
    for text in (f"got {person}", json.dumps(person), "AccountData(name='Ada Lovelace', owner='ada')"):
        log.logger.info(text)
        assert "Lovelace" not in log.line()["message"]
    details = ("DETAIL:  Failing row contains (01, 4000, Ada Lovelace, 5).", "Key (owner)=(Ada Lovelace) exists.")
    for text in details:
        log.logger.warning("insert failed: %s", text)
        assert "Lovelace" not in log.line()["message"]


def test_amounts_are_logged_at_debug_only(log: Log) -> None:
    data = {"amount": 1050, "balance_after": 77777, "seq": 3}
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        shown = level == logging.DEBUG
        log.logger.log(level, "posted %s", data, extra={"entry": data, "amount": 1050})
        log.logger.log(level, "amount=%d of %r balance_after: %d", 1050, data, 77777)
        log.logger.log(level, "failed", exc_info=ValueError(json.dumps(data)))
        for line in log.lines():
            assert (("1050" in str(line)) and ("77777" in str(line))) == shown
            assert shown or ("1050" not in str(line) and "77777" not in str(line))


def test_account_numbers_keep_their_last_four_digits(log: Log) -> None:
    log.logger.info("account %d", 4000123412341234, extra={"account_number": 4000123412341234, "other": "99988877766"})
    line = log.line()
    assert line["message"] == "account ****1234"
    assert line["account_number"] == "****1234" and line["other"] == "****7766"


def test_other_values_stay_readable(log: Log) -> None:
    harmless = (
        "GET /api/v1/accounts/0198c5f0-7d3a-7c1e-9d4b-2f6a1b3c4d5e 200 in 1.25 ms at 10:00:00",
        "trace 4bf92f3577b34da6a3ce929d0e0e4736, batch of 256 took 0.0123 s; 99 % of 123456789",
        "retry with the same key: account-service did not answer (http://127.0.0.1:8000/x?after=5)",
    )
    for text in harmless:
        assert mask_text(text) == text
    log.logger.info("x", extra={"status": 200, "duration_ms": 1.23456789012, "ok": True, "none": None, "n": 123456789})
    line = log.line()
    assert [line[name] for name in ("status", "duration_ms", "ok", "none", "n")] == [
        *(200, 1.23456789012, True, None, 123456789)
    ]


def test_line_has_the_common_fields(log: Log) -> None:
    log.logger.info("hello %s", "world")
    line = log.line()
    assert set(line) >= {"timestamp", "level", "service", "version", "track", "request_id", "trace_id", "message"}
    assert (line["message"], line["level"], line["logger"], line["service"]) == ("hello world", "INFO", "test", "s")
    assert line["request_id"] is None and line["trace_id"] is None
    tokens = REQUEST_ID.set("request-1"), TRACE_PARENT.set(f"00-{'a' * 32}-{'b' * 16}-01")
    try:
        log.logger.error("oops", exc_info=ValueError("why"))
    finally:
        REQUEST_ID.reset(tokens[0])
        TRACE_PARENT.reset(tokens[1])
    line = log.line()
    assert (line["request_id"], line["trace_id"]) == ("request-1", "a" * 32)
    assert line["exception"].endswith("ValueError: why")


class Unprintable:
    """An object that cannot be converted to text."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


def test_record_that_cannot_be_masked_is_replaced(log: Log) -> None:
    endless: list[Any] = ["password=hunter2"]
    endless.append(endless)
    log.logger.info("x", extra={"endless": endless})
    log.logger.info("x", extra={"bad": Unprintable()})
    log.logger.info("%s password=hunter2", Unprintable())
    log.logger.info("half \ud800 a character", extra={"\ud801": "\ud802"})
    lines = log.lines()
    assert len(lines) == 4 and "hunter2" not in str(lines)


@pytest.mark.parametrize("text", ["a", "a.b-", "1", "://", "password", "x@", "eyJ.", "'\\\"password=", "Bearer "])
def test_masking_is_fast_for_any_text(log: Log, text: str) -> None:
    with assert_cpu_below(5):
        log.logger.info(text * (100_000 // len(text)) + ":")


@contextmanager
def configured() -> Iterator[io.StringIO]:
    """Configure logging as in a service and restore it afterwards; yields the previous stream of a library."""
    root = logging.root
    before = (
        root.handlers[:],
        root.level,
        {name: vars(logging.getLogger(name)).copy() for name in root.manager.loggerDict},
    )
    flags = {name: getattr(logging, name) for name in vars(logging) if name.startswith("log") and name[3:4].isupper()}
    third = logging.getLogger("third.party")
    own = io.StringIO()
    third.addHandler(logging.StreamHandler(own))
    third.propagate = False
    configure("account-service", "1.2", "canary", "INFO", "replica-1")
    yield own
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    for name, state in before[2].items():
        vars(logging.getLogger(name)).update(state)
    for name, value in flags.items():
        setattr(logging, name, value)


def test_logs_of_libraries_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    with configured() as own:
        for name in ("third.party", "third.party.deeper", "sqlalchemy.engine", "uvicorn.error", "made.later"):
            logging.getLogger(name).warning("password=%s", "hunter2hunter2")
        logging.warning("token: hunter2hunter2")
        logging.getLogger("asyncio").error("oops", exc_info=ValueError("api_key=hunter2hunter2"))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("secret=hunter2hunter2", stacklevel=1)
        logging.getLogger("httpx").info("not shown")
        logging.getLogger("quiet").debug("not shown")
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert len(lines) == 8 and output.err == own.getvalue() == ""
    assert "hunter2" not in output.out
    static = {"service": "account-service", "version": "1.2", "track": "canary", "instance": "replica-1"}
    assert all(static.items() <= line.items() for line in lines)
    assert lines[0]["message"] == "password=[removed]"


def test_tracebacks_keep_their_shape() -> None:
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        assert mask_text(traceback.format_exc()).endswith("ValueError: password=[removed]\n")
