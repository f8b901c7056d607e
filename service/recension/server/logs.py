"""Logs as data: JSON on stderr, unless a person is watching."""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

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
READERS_FREED = "readers_freed"
"""Processes that read the store were killed, and their slots are free again."""
FRAMES_UNUSABLE = "frames_unusable"
"""Texts are not kept as frames for a minute; they are read from the store as ever."""
CERTIFICATE_UNUSABLE = "certificate_unusable"
"""The certificate's files have changed and cannot be used; the one before is still shown."""
ISSUERS_UNUSABLE = "issuers_unusable"
"""The file of the keys that tokens are checked with has changed and cannot be used; those before stay."""
QUOTA_NOT_SETTLED = "quota_not_settled"
"""What was reserved of a licensee's quota and not used could not be given back: it counts as used."""
QUOTA_LOST = "quota_lost"
"""A process was killed; what it had reserved of a licensee's quota counts as used."""
CLOCK_HELD = "clock_held"
"""The wall clock is too far ahead to be trusted, so embargoes last until the operator confirms it."""
CHORE_FAILED = "chore_failed"
FRESHNESS = "freshness"
AUDIT_UNUSABLE = "audit_unusable"
"""The audit log cannot be written: nothing is delivered to licensees until it can be."""
AUDIT_USABLE = "audit_usable"
"""It can be written again."""
AUDIT_UNWRITTEN = "audit_unwritten"
"""A record of the audit log that found no place there; the line has all of it."""
AUDIT_UNSIGNED = "audit_unsigned"
"""No checkpoint of the audit log could be signed."""
STALLED = "STALLED"
"""Reason of a call that was ended because its client took no message, or sent no request, for too long."""

_MAX_VALUE_CHARACTERS = 2_048


_SECRET = re.compile(
    r"(?<=rcn_[0-9a-f]{16})_[0-9A-Za-z_]+"  # what follows a key's id
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]*"  # a token
    r"|(?i:(?<=bearer )\S+)"  # whatever is shown at the door
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
_MARKS = ("rcn_", "eyj", "bearer ", "private key-")
"""One of these is in whatever ``_SECRET`` finds, in lower case: nearly all values have none."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of a line."""


def configure(stream: TextIO | None = None) -> None:
    """Set up logging of this process; called once, before the first line."""
    target = stream or sys.stderr
    renderer: Processor = structlog.processors.JSONRenderer()
    if target.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted,
            _tame,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )


def _redacted(logger: WrappedLogger, name: str, fields: EventDict) -> EventDict:  # noqa: ARG001
    """Take secrets out of every value, whoever put them there."""
    return {key: _without_secrets(value) for key, value in fields.items()}


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        lower = value.lower()
        return _SECRET.sub("[redacted]", value) if any(mark in lower for mark in _MARKS) else value
    if isinstance(value, bytes):
        return _without_secrets(value.decode(errors="replace"))
    if isinstance(value, dict):
        return {_without_secrets(key): _without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_without_secrets(item) for item in value]
    return value


def _tame(logger: WrappedLogger, name: str, fields: EventDict) -> EventDict:  # noqa: ARG001
    """Shorten long values and let none steer a terminal or begin a line."""
    for key, value in fields.items():
        if not isinstance(value, str):
            continue
        if key == "exception":
            fields[key] = "\n  ".join(map(_escaped, value.split("\n")))
        elif len(value) > _MAX_VALUE_CHARACTERS:
            fields[key] = _escaped(value[:_MAX_VALUE_CHARACTERS]) + "…"
        else:
            fields[key] = _escaped(value)
    return fields


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def logger() -> Any:
    """Return the process's logger; unless it was set up, one that leaves standard output alone."""
    if structlog.is_configured():
        return structlog.get_logger()
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    )
