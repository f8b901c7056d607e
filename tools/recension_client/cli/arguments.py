"""What the groups of commands share: the options that stand everywhere, and the types of arguments.

A group is a module with ``register(commands)``, which adds each of its commands to ``Commands``; ``cli.main``
names the groups.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from recension.model.digest import parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.event import MAX_ID
from recension.model.instant import parse_instant
from recension.model.manifest import OnHidden, Redirects, Selector
from recension.model.private import OpenToOthersError, read_private
from recension.model.reading import Shard
from recension_client.client import Client

DEFAULT_SERVER = "127.0.0.1:7777"

OK = 0
DIFFERENT = 1

_MAX_PORT = 65_535
_MAX_AGE_SECONDS = 315_576_000_000
"""The range of ``google.protobuf.Duration``: 10,000 years."""

Run = Callable[[Namespace], int]
"""What a command does; its result is the exit code."""

_EPILOG = """\
times:
  2026-01-31 (its first instant, UTC) or 2026-01-31T12:00:00Z

--tsv, where a command has it:
  one line an item, tabs between its fields, no header; in a field a backslash is \\\\, a tab \\t,
  a newline \\n, a return \\r, any other control or line-separating character \\u and 4 hex digits

exit codes:
  0    done
  1    different: diff --exit-code, verify, proof verify, lock --check; doctor: something is amiss
  2    wrong usage
  3    an error with a name: see "error:" and "hint:" on stderr, or its "reason" with --json
  130  interrupted
  141  the reader of the output went away
"""


def connect(options: Namespace, *, locked: str = "") -> Client:
    """Return a client of the server that the options name, else of ``locked``, else of the default."""
    return Client(
        options.server or locked or DEFAULT_SERVER,
        key=_key(options),
        tls_ca=options.tls_ca,
        tls_cert=options.tls_cert,
        timeout_seconds=options.timeout,
    )


def _key(options: Namespace) -> str:
    """Return the key to show. Never an argument itself: other users of a machine see those."""
    if options.key_file is None:
        return os.environ.get("RECENSION_KEY", "")
    try:
        return read_private(options.key_file).strip()
    except OpenToOthersError as error:
        raise InvalidArgumentError(
            f"{options.key_file}: {error}", hint=f"chmod 600 {options.key_file}", field="key_file"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{options.key_file} cannot be read: {error}", field="key_file") from None


def asking(run: Callable[[Client, Namespace], int]) -> Run:
    """Return a command that asks one server."""

    def command(options: Namespace) -> int:
        with connect(options) as client:
            return run(client, options)

    return command


class Commands:
    """The parser of the whole command line; the groups add to it."""

    def __init__(self) -> None:
        self.parser = Parser(
            prog="recension",
            description="Article revisions as they were, exact snapshots of them, and how two differ.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[_common(top=True)],
        )
        self.parser.add_argument("--version", action="version", version=f"recension {version('recension')}")
        self._found = self.parser.add_subparsers(
            title="commands", metavar="COMMAND", required=True, parser_class=Parser
        )

    def add(self, name: str, help_: str, run: Run) -> argparse.ArgumentParser:
        """Add one command and return its parser, for the options of its own."""
        made: argparse.ArgumentParser = self._found.add_parser(
            name,
            help=help_,
            description=f"{help_[0].upper()}{help_[1:]}.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[_common(top=False)],
        )
        made.set_defaults(run=run)
        return made


class Parser(argparse.ArgumentParser):
    """Says how to get help when usage is wrong."""

    def error(self, message: str) -> NoReturn:
        """Write the fault in the form of every other and leave with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\nhint: {self.prog} --help\n")


def _common(*, top: bool) -> Parser:
    """Return the options that stand before or after the command; after it without a default."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("everywhere")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_server,
        default=os.environ.get("RECENSION_SERVER") if top else argparse.SUPPRESS,
        help=f"server to ask (default: RECENSION_SERVER, else {DEFAULT_SERVER})",
    )
    group.add_argument(
        "--key-file",
        metavar="FILE",
        type=Path,
        default=_environment_path("RECENSION_KEY_FILE") if top else argparse.SUPPRESS,
        help="file with the key to show (default: RECENSION_KEY_FILE, else the key itself in RECENSION_KEY)",
    )
    group.add_argument(
        "--tls-ca",
        metavar="FILE",
        default=os.environ.get("RECENSION_TLS_CA", "") if top else argparse.SUPPRESS,
        help="roots of the server's certificate, PEM, or: system (default: RECENSION_TLS_CA, else no TLS)",
    )
    group.add_argument(
        "--tls-cert",
        metavar="FILE",
        default=os.environ.get("RECENSION_TLS_CERT", "") if top else argparse.SUPPRESS,
        help="one's own certificate and its private key, PEM (default: RECENSION_TLS_CERT, else none)",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=None if top else argparse.SUPPRESS,
        help="deadline of a single question; streams have none (default: 30, and 600 to make a snapshot)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=False if top else argparse.SUPPRESS,
        help="write JSON, one object a line",
    )
    group.add_argument(
        "--quiet",
        action="store_true",
        default=False if top else argparse.SUPPRESS,
        help="no progress and no remarks on stderr; errors are still said",
    )
    return parser


def _environment_path(name: str) -> Path | None:
    return Path(os.environ[name]) if os.environ.get(name) else None


def page(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a page."""
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("page", metavar="PAGE", type=page_name, help="a title, or id:N")


def as_of(parser: argparse.ArgumentParser, *, required: bool = False, at_help: str = "valid time") -> None:
    """Add the options of an as-of."""
    default = "" if required or "default" in at_help else " (default: now)"
    parser.add_argument("--at", metavar="T", type=parse_instant, required=required, help=at_help + default)
    parser.add_argument(
        "--known-at", metavar="K", type=position, default=0, help="position known at (default: the newest)"
    )


def snapshot(parser: argparse.ArgumentParser, name: str, metavar: str, *, default: str = "") -> None:
    """Add an argument that is a snapshot id; ``default`` says what an option stands for without it."""
    help_ = "snapshot id: sha256:<64 hex>" + (f" (default: {default})" if default else "")
    parser.add_argument(name, metavar=metavar, type=_digest, help=help_)


def selector(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which part of the corpus."""
    parser.add_argument("projects", metavar="PROJECT", nargs="+", help="one or more projects")
    parser.add_argument(
        "--namespace", metavar="N", type=namespace, nargs="+", action="extend", help="only these namespaces"
    )
    parser.add_argument(
        "--model", metavar="MODEL", nargs="+", action="extend", help="only these content models"
    )
    parser.add_argument(
        "--redirects",
        type=Redirects,
        choices=list(Redirects),
        default=Redirects.INCLUDE,
        help="default: include",
    )
    parser.add_argument(
        "--on-hidden",
        type=OnHidden,
        choices=list(OnHidden),
        default=OnHidden.SKIP,
        help="hidden pages: leave out, take the newest that is not, or keep without text",
    )
    parser.add_argument(
        "--min-age",
        metavar="SECONDS",
        type=age,
        default=0,
        help="take the newest revision that is at least this old",
    )


def selected(options: Namespace) -> Selector:
    """Return what the options of ``selector`` say."""
    return Selector.of(
        options.projects,
        options.namespace,
        options.model,
        options.redirects,
        options.min_age,
        options.on_hidden,
    )


def lock(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a lock file."""
    parser.set_defaults(lock_given=False)
    parser.add_argument(
        "--lock",
        metavar="FILE",
        type=Path,
        action=_Given,
        default=Path("recension.lock"),
        help="default: recension.lock",
    )


class _Given(argparse.Action):
    """Keeps a value, and that it was given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - the shape of an action
        options: Namespace,
        value: object,
        name: str | None = None,  # noqa: ARG002 - the shape of an action
    ) -> None:
        """Keep both."""
        setattr(options, self.dest, value)
        setattr(options, f"{self.dest}_given", True)


def page_name(text: str) -> int | str:
    """Read a page: ``id:N``, or else a title."""
    if not re.fullmatch(r"id:[0-9]+", text):
        return text
    number = text.removeprefix("id:")
    if len(number) > len(str(MAX_ID)) or not 1 <= int(number) <= MAX_ID:
        raise InvalidArgumentError(f"{number} is not a page id", hint=f"page ids go from 1 to {MAX_ID}")
    return int(number)


def _digest(text: str) -> bytes:
    return parse_digest(text, "snapshot")


def _server(text: str) -> str:
    match = re.fullmatch(r"[!-~]+:([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[1]) <= _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!a} is not HOST:PORT, as in {DEFAULT_SERVER}")
    return text


def position(text: str) -> int:
    """Read a log position."""
    return _number(text, 0, MAX_ID)


def namespace(text: str) -> int:
    """Read a namespace number."""
    return _number(text, -(2**31), 2**31 - 1)


def workers(text: str) -> int:
    """Read a number of workers."""
    return _number(text, 1, 64)


def age(text: str) -> int:
    """Read an age in seconds."""
    return _number(text, 0, _MAX_AGE_SECONDS)


def _number(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def shard(text: str) -> Shard:
    """Read a shard, ``I/N``."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I below N, as in 0/8")
    return Shard(int(match[1]), int(match[2]))
