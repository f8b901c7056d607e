"""The entry point of ``recension``: options, dispatch, and what each fault becomes."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from recension.model.digest import parse_digest
from recension.model.errors import InvalidArgumentError, RecensionError, UnreachableError
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

_MAX_PORT = 65_535
_MAX_AGE_SECONDS = 315_576_000_000
"""The range of ``google.protobuf.Duration``: 10,000 years."""

_EPILOG = """\
times:
  2026-01-31 (its first instant, UTC) or 2026-01-31T12:00:00Z

--tsv, where a command has it:
  one line an item, tabs between its fields, no header; in a field a backslash is \\\\, a tab \\t,
  a newline \\n, a return \\r, any other control or line-separating character \\u and 4 hex digits

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
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    _open_closed()
    try:
        options = _parser().parse_args(_utf8(argv))
        with Client(options.server, timeout_seconds=options.timeout) as client:
            code: int = options.run(client, options)
        sys.stdout.flush()
    except RecensionError as error:
        if isinstance(error, UnreachableError):
            error.hint = (
                "start it with: recension-server serve; name another with --server or RECENSION_SERVER"
            )
        _flush()
        output.complain(error, as_json=as_json)
        return _NAMED_ERROR
    except BrokenPipeError:
        _drop_stdout()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        _drop_stdout()  # a flush would wait for a reader that stopped reading, such as a pager
        return _INTERRUPTED
    except OSError as error:
        _drop_stdout()
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return _NAMED_ERROR
    return code


def _open_closed() -> None:
    """Give a command that was started without stdout or stderr one that leads nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the end
            setattr(sys, name, nowhere)


def _utf8(argv: Sequence[str]) -> Sequence[str]:
    """Refuse what is no UTF-8: neither the wire nor the output could carry it."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"not UTF-8: {argument!a}", hint="set the terminal and its locale to UTF-8"
            ) from None
    return argv


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
        type=_server,
        default=server if top else argparse.SUPPRESS,
        help=f"server to ask (default: RECENSION_SERVER, else {DEFAULT_SERVER})",
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
        "--namespace", metavar="N", type=_namespace, nargs="+", action="extend", help="only these namespaces"
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
        type=_age,
        default=0,
        help="take the newest revision that is at least this old",
    )

    one = command("snapshots", "list the snapshots in the order of their making")
    one.add_argument("--tsv", action="store_true", help="id, T, K, projects, entries, bytes")

    one = command("ls", "list the entries of a snapshot in page order")
    _snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument("--tsv", action="store_true", help="page id, title, revision, digest of the main text")

    one = command("diff", "write what differs between two snapshots")
    _snapshot(one, "before", "A")
    _snapshot(one, "after", "B")
    one.add_argument(
        "--tsv", action="store_true", help="kind, page id, title in A and B, revision in A and B"
    )
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
    parser.add_argument("--at", metavar="T", type=parse_instant, required=required, help=at_help + default)
    parser.add_argument(
        "--known-at", metavar="K", type=_position, default=0, help="position known at (default: the newest)"
    )


def _snapshot(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    parser.add_argument(name, metavar=metavar, type=_digest, help="snapshot id: sha256:<64 hex>")


def _page_name(text: str) -> int | str:
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


def _position(text: str) -> int:
    return _number(text, 0, MAX_ID)


def _namespace(text: str) -> int:
    return _number(text, -(2**31), 2**31 - 1)


def _age(text: str) -> int:
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


def _shard(text: str) -> Shard:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I below N, as in 0/8")
    return Shard(int(match[1]), int(match[2]))


if __name__ == "__main__":
    sys.exit(main())
