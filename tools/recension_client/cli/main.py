"""The entry point of ``recension``: options, dispatch, and what each fault becomes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

from recension.model.digest import parse_digest
from recension.model.errors import RecensionError, UnreachableError
from recension.model.event import MAX_ID
from recension.model.instant import parse_instant
from recension.model.manifest import OnHidden, Redirects
from recension.model.reading import WHOLE, Shard
from recension_client.cli import commands, output
from recension_client.client import Client

DEFAULT_SERVER = "127.0.0.1:7777"

_NAMED_ERROR = 3
_INTERRUPTED = 130
_PIPE_CLOSED = 141

_EPILOG = """\
times:
  2026-01-31 (its first instant, UTC) or 2026-01-31T12:00:00Z

exit codes:
  0    done
  1    diff --exit-code: the snapshots differ
  2    wrong usage
  3    an error with a name: see "error:" and "hint:" on stderr, or its "reason" with --json
  130  interrupted
  141  the reader of the output went away
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        with Client(options.server, timeout_seconds=options.timeout) as client:
            code: int = options.run(client, options)
        sys.stdout.flush()
    except RecensionError as error:
        if isinstance(error, UnreachableError) and not error.hint:
            error.hint = "check that the server runs; name another with --server or RECENSION_SERVER"
        _flush()
        output.complain(error, as_json=options.json)
        return _NAMED_ERROR
    except BrokenPipeError:
        _drop_stdout()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        _flush()
        return _INTERRUPTED
    except OSError as error:
        _drop_stdout()
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return _NAMED_ERROR
    return code


def _flush() -> None:
    """Write out what came before the fault; a second fault would hide the first."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    """Send what is left to nowhere, so that the interpreter's last flush says nothing."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """Says how to get help when usage is wrong."""

    def error(self, message: str) -> NoReturn:
        """Write the fault in the form of every other and leave with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\nhint: {self.prog} --help\n")


def _common(*, top: bool) -> _Parser:
    """Return the options that stand before or after the command; after it without a default."""
    parser = _Parser(add_help=False)
    server = os.environ.get("RECENSION_SERVER") or DEFAULT_SERVER
    group = parser.add_argument_group("everywhere")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=server if top else argparse.SUPPRESS,
        help=f"server to ask (default: RECENSION_SERVER, else {DEFAULT_SERVER})",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=30.0 if top else argparse.SUPPRESS,
        help="deadline of a single question; streams have none (default: 30)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=False if top else argparse.SUPPRESS,
        help="write JSON, one object a line",
    )
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="recension",
        description="Article revisions as they were, exact snapshots of them, and what differs between two.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common(top=True)],
    )
    parser.add_argument("--version", action="version", version=f"recension {version('recension')}")
    found = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    common = _common(top=False)

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        made = found.add_parser(
            name,
            help=help_,
            description=f"{help_[0].upper()}{help_[1:]}.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
        )
        made.set_defaults(run=getattr(commands, name))
        return made

    command("projects", "list the projects")

    one = command("show", "write an article as it was")
    _page(one)
    _as_of(one)

    one = command("log", "write what happened to a page: edits, moves, deletes, restores, visibility")
    _page(one)
    _as_of(one, at_help="a time when the page had the title (default: now)")

    one = command("snapshot", "make a snapshot and write its id")
    one.add_argument("projects", metavar="PROJECT", nargs="+", help="one or more projects")
    _as_of(one, required=True)
    one.add_argument(
        "--namespace", metavar="N", type=int, nargs="+", action="extend", help="only these namespaces"
    )
    one.add_argument("--model", metavar="MODEL", nargs="+", action="extend", help="only these content models")
    one.add_argument(
        "--redirects",
        type=Redirects,
        choices=list(Redirects),
        default=Redirects.INCLUDE,
        help="default: include",
    )
    one.add_argument(
        "--on-hidden",
        type=OnHidden,
        choices=list(OnHidden),
        default=OnHidden.SKIP,
        help="hidden pages: leave out, take the newest that is not, or keep without text",
    )
    one.add_argument(
        "--min-age",
        metavar="SECONDS",
        type=_natural,
        default=0,
        help="take the newest revision that is at least this old",
    )

    one = command("snapshots", "list the snapshots in the order of their making")
    one.add_argument("--tsv", action="store_true", help="id, T, K, projects, entries, bytes; no header")

    one = command("ls", "list the entries of a snapshot in page order")
    _snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument("--tsv", action="store_true", help="page id, title, revision, digest; no header")

    one = command("diff", "write what differs between two snapshots")
    _snapshot(one, "before", "A")
    _snapshot(one, "after", "B")
    one.add_argument("--tsv", action="store_true", help="kind, page id, titles, revisions; no header")
    one.add_argument("--exit-code", action="store_true", help="leave with 1 when they differ")

    one = command("cat", "write the articles of a snapshot, one JSON object a line")
    _snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument("--shard", metavar="I/N", type=_shard, default=WHOLE, help="part I of N, from 0/N")
    return parser


def _page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("page", metavar="PAGE", type=_page_name, help="a title, or id:N")


def _as_of(parser: argparse.ArgumentParser, *, required: bool = False, at_help: str = "valid time") -> None:
    default = "" if required or "default" in at_help else " (default: now)"
    parser.add_argument("--at", metavar="T", type=_instant, required=required, help=at_help + default)
    parser.add_argument(
        "--known-at", metavar="K", type=_natural, default=0, help="position known at (default: the newest)"
    )


def _snapshot(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    parser.add_argument(name, metavar=metavar, type=_digest, help="snapshot id: sha256:<64 hex>")


def _page_name(text: str) -> int | str:
    prefix, _, number = text.partition(":")
    if prefix != "id" or not (number.isascii() and number.isdigit()):
        return text
    if not 1 <= int(number) <= MAX_ID:
        raise argparse.ArgumentTypeError(f"{number} is not a page id")
    return int(number)


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except RecensionError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.hint}") from None


def _digest(text: str) -> bytes:
    try:
        return parse_digest(text, "snapshot")
    except RecensionError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.hint}") from None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_ID:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _shard(text: str) -> Shard:
    index, _, count = text.partition("/")
    if not all(part.isascii() and part.isdigit() for part in (index, count)) or int(index) >= int(count):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I below N, as in 0/8")
    return Shard(int(index), int(count))


if __name__ == "__main__":
    sys.exit(main())
