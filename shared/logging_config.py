"""Logs: one JSON object per line on stdout, masked in the pipeline so that no call site can leak."""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_PARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)

REMOVED = "[removed]"
HIDDEN = "[hidden]"

_SECRET_NAMES = re.compile(
    r"token|passw|passphrase|pwd|secret|authorization|api[_-]?key|private|cookie|credential|jwks?$", re.IGNORECASE
)
_PERSONAL_NAMES = frozenset({"name", "email", "e_mail", "owner", "full_name", "first_name", "last_name", "subject"})
_AMOUNT_NAMES = frozenset({"amount", "balance", "balance_after", "available", "held"})
# From here on a number may be an account's.
_LONG_NUMBER = 10**9
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# One pass finds everything that is masked in free text; the group tells what it is. Every part is anchored at its
# start, so that time grows with the length of the text and no faster. Text may be the `repr` of text: a word may
# follow an escape (`\n`), and a value that starts with an escaped quote is taken to last as long as the line.
_START = r"(?:\b|(?<=\\[nrt]))"
_QUOTED = r"\\+[\"'][^\n]*|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_SENSITIVE = re.compile(
    r"(?P<jwt>(?-i:eyJ)[\w-]+(?:\.[\w-]*)+)"
    r"|(?P<pem>-----BEGIN[^-]*PRIVATE KEY-----.*?(?:-----END[^-]*-----|\Z))"
    r"|(?P<url>://[^\s/]*@)"
    r"|(?P<row>Failing row contains [^\n]*|Key \([^\n]*)"
    r"|(?P<pair>\\*[\"']?(?<![\w-])"
    r"(?=[\w-]*?(?:token|passw(?:or)?d|pwd|passphrase|secret|api[_-]?key|private[_-]?key|authorization|cookie))"
    rf"[\w-]++\\*[\"']?\s*[=:]\s*)(?P<value>(?:(?:bearer|basic)\s+)?(?:{_QUOTED}|[^\s,;&}}\])]+))"
    rf"|(?P<label>\\*[\"']?\b(?:owner|(?:full_|first_|last_)?name)\\*[\"']?\s*[=:]\s*)(?P<person>{_QUOTED})"
    rf"|(?P<bearer>{_START}(?:bearer|basic)\s+[^\s\"',;]+)"
    r"|(?P<email>(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)+)"
    r"|(?P<account>(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))(?:[A-Z]{2})?\d{10,}(?![0-9A-Za-z]))",
    re.IGNORECASE | re.DOTALL,
)
_AMOUNTS = re.compile(rf"(\b(?:{'|'.join(sorted(_AMOUNT_NAMES))})\\*[\"']?\s*[=:]\s*)-?\d+")

# Whatever is sensitive has one of these; most texts have none, and this looks much faster.
_SUSPICIOUS = re.compile(r"[@:=]|[0-9]{10}|eyJ|[Bb][Ee][Aa][Rr][Ee][Rr]|[Bb][Aa][Ss][Ii][Cc]|BEGIN")


@contextmanager
def about(request_id: str | None, traceparent: str | None) -> Iterator[None]:
    """Let the lines that are logged in the block carry the ids of a request."""
    tokens = REQUEST_ID.set(request_id), TRACE_PARENT.set(traceparent)
    try:
        yield
    finally:
        REQUEST_ID.reset(tokens[0])
        TRACE_PARENT.reset(tokens[1])


def _mask_match(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "value":
        return match["pair"] + REMOVED
    if kind == "person":
        return match["label"] + f"'{HIDDEN}'"
    if kind == "account":
        return "****" + match[0][-4:]
    if kind == "url":
        return f"://{REMOVED}@"
    return HIDDEN if kind == "email" else REMOVED


def mask_text(text: str, *, hide_amounts: bool = False) -> str:
    """Mask tokens, keys, passwords, people, account numbers, and amounts if asked to, in free text."""
    if not _SUSPICIOUS.search(text):
        return text
    masked = _SENSITIVE.sub(_mask_match, text)
    return _AMOUNTS.sub(rf"\1{HIDDEN}", masked) if hide_amounts else masked


@lru_cache(maxsize=1024)
def _replacement(name: str, hide_amounts: bool) -> str | None:
    """Return what stands in place of any value with this name, None where the value itself decides."""
    lowered = name.lower()
    if _SECRET_NAMES.search(lowered):
        return REMOVED
    if lowered in _PERSONAL_NAMES or (lowered in _AMOUNT_NAMES and hide_amounts):
        return HIDDEN
    return None


def mask_value(  # pylint: disable=too-many-return-statements  # one for each kind of value
    name: str, value: Any, *, hide_amounts: bool
) -> Any:
    """Mask a value that goes by a name, through mappings and sequences of any depth."""
    if value is None or isinstance(value, bool):
        return value
    replacement = _replacement(name, hide_amounts)
    if replacement is not None:
        return replacement
    if isinstance(value, str):
        return mask_text(value, hide_amounts=hide_amounts)
    if isinstance(value, float) or (isinstance(value, int) and -_LONG_NUMBER < value < _LONG_NUMBER):
        return value
    if isinstance(value, Mapping):
        return {
            mask_text(str(key)): mask_value(str(key), item, hide_amounts=hide_amounts) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [mask_value(name, item, hide_amounts=hide_amounts) for item in value]
    return mask_text(str(value), hide_amounts=hide_amounts)


class MaskingFilter(logging.Filter):
    """Replaces message, arguments, extras and exception of every record by masked ones."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place and let it pass; what cannot be masked is not shown."""
        try:
            _mask(record)
        except Exception as error:  # pylint: disable=broad-exception-caught  # logging must never fail its caller
            for name in record.__dict__.keys() - _STANDARD:
                del record.__dict__[name]
            record.msg = f"[a line of {record.module}:{record.lineno} that could not be masked: {type(error).__name__}]"
            record.args = record.exc_info = record.exc_text = record.stack_info = None
        return True


def _mask(record: logging.LogRecord) -> None:
    hide_amounts = record.levelno >= logging.INFO
    record.msg, record.args = mask_text(_message_of(record, hide_amounts), hide_amounts=hide_amounts), None
    if record.exc_info:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    if record.exc_text:
        record.exc_text = mask_text(record.exc_text, hide_amounts=hide_amounts)
    if record.stack_info:
        record.stack_info = mask_text(record.stack_info, hide_amounts=hide_amounts)
    record.__dict__.pop("color_message", None)  # uvicorn's copy of the message
    for name in record.__dict__.keys() - _STANDARD:
        record.__dict__[mask_text(name)] = mask_value(name, record.__dict__.pop(name), hide_amounts=hide_amounts)


def _message_of(record: logging.LogRecord, hide_amounts: bool) -> str:
    args = record.args
    message = record.msg if isinstance(record.msg, str) else str(mask_value("", record.msg, hide_amounts=hide_amounts))
    if isinstance(args, Mapping):
        args = {key: mask_value(key, item, hide_amounts=hide_amounts) for key, item in args.items()}
    elif args:
        args = tuple(
            mask_value("", arg, hide_amounts=hide_amounts) if isinstance(arg, Mapping | list | tuple | set) else arg
            for arg in args
        )
    try:
        return message % args if args else message
    except (TypeError, ValueError, KeyError):
        return f"{message} (arguments do not fit: {args!r})"


class JsonFormatter(OrjsonFormatter):
    """Formats a record as one line of JSON with the fields every log line has."""

    def __init__(self, static: Mapping[str, str]) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            timestamp=True,
            static_fields=dict(static),
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Add the ids of the request that is being worked on."""
        parent = TRACE_PARENT.get()
        log_data["request_id"] = REQUEST_ID.get()
        log_data["trace_id"] = parent[3:35] if parent else None
        return log_data

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the line; half a surrogate pair is text that only Python's own JSON can write."""
        try:
            return super().jsonify_log_record(log_data)
        except TypeError:
            return json.dumps(log_data, default=str)


def configure(service: str, version: str, track: str, level: str, instance: str = "") -> None:
    """Send all logs of the process, those of libraries included, through one masked JSON handler on stdout."""
    # What no line shows need not be found out (see "Optimization" in Python's logging how-to).
    for unused in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, unused, False)
    handler = logging.StreamHandler(sys.stdout)
    static = {"service": service, "version": version, "track": track}
    handler.setFormatter(JsonFormatter({**static, "instance": instance} if instance else static))
    handler.addFilter(MaskingFilter())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for noisy in ("httpx", "httpcore", "aiosqlite", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.root.level))
    logging.captureWarnings(True)
