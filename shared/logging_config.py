"""Logging: one JSON object per line on stdout, masked centrally so that no call site can leak secrets."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

from shared.observability.log_lines import split_into_lines
from shared.observability.masking import mask_text, mask_value

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_PARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def request_context(request_id: str | None, traceparent: str | None) -> Iterator[None]:
    """Add the ids of a request to all lines logged in the block."""
    tokens = REQUEST_ID.set(request_id), TRACE_PARENT.set(traceparent)
    try:
        yield
    finally:
        REQUEST_ID.reset(tokens[0])
        TRACE_PARENT.reset(tokens[1])


class MaskingFilter(logging.Filter):
    """Masks the message, arguments, extras and exception of every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place; a record that cannot be masked is replaced by a placeholder."""
        try:
            _mask(record)
        except Exception as error:  # pylint: disable=broad-exception-caught  # logging must never fail its caller
            for name in record.__dict__.keys() - _STANDARD:
                del record.__dict__[name]
            record.msg = f"[log record of {record.module}:{record.lineno} could not be masked: {type(error).__name__}]"
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
            (
                mask_value("", arg, hide_amounts=hide_amounts)
                if isinstance(arg, Mapping | list | tuple | set | bytes)
                else arg
            )
            for arg in args
        )
    try:
        return message % args if args else message
    except (TypeError, ValueError, KeyError):
        return f"{message} (invalid arguments: {args!r})"


class JsonFormatter(OrjsonFormatter):
    """Formats a record as a line of JSON with the common fields; a long list continues on further lines."""

    def __init__(self, static: Mapping[str, str]) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            timestamp=True,
            static_fields=dict(static),
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Add the ids of the current request."""
        parent = TRACE_PARENT.get()
        log_data["request_id"] = REQUEST_ID.get()
        log_data["trace_id"] = parent[3:35] if parent else None
        return log_data

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the lines."""
        return "\n".join(split_into_lines(log_data, self._encode))

    def _encode(self, log_data: dict[str, Any]) -> str:
        """Return the line; only Python's own JSON encoder accepts lone surrogates."""
        try:
            return super().jsonify_log_record(log_data)
        except TypeError:
            return json.dumps(log_data, default=str)


def configure(service: str, version: str, track: str, level: str, instance: str = "") -> None:
    """Route all logs of the process, including those of libraries, to one masking JSON handler on stdout."""
    # Do not collect what no line contains (see "Optimization" in Python's logging how-to).
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
