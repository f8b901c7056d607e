"""Logs as data: JSON on stderr, unless a person is watching."""

from __future__ import annotations

import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

# Event names are constants, what varies is in the fields: a client can't forge a line.
REQUEST = "request"
"""One for each call, when its last byte left."""
REQUEST_FAILED = "request_failed"
"""An exception that has no name; the client was told only its id."""
SERVING = "serving"
DRAINING = "draining"
STOPPED = "stopped"
WORKER_STARTED = "worker_started"
WORKER_DIED = "worker_died"

_MAX_VALUE_CHARACTERS = 2_048


def configure(stream: TextIO | None = None) -> None:
    """Set up logging of this process; called once, before the first line."""
    target = stream or sys.stderr
    person = target.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if person else [structlog.processors.format_exc_info]),
            _shorten,
            structlog.dev.ConsoleRenderer() if person else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )


def _shorten(logger: WrappedLogger, name: str, fields: EventDict) -> EventDict:  # noqa: ARG001
    for key, value in fields.items():
        if key != "exception" and isinstance(value, str) and len(value) > _MAX_VALUE_CHARACTERS:
            fields[key] = value[:_MAX_VALUE_CHARACTERS] + "…"
    return fields
