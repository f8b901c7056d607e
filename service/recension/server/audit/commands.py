"""The commands ``audit show``, ``verify``, ``export`` and ``checkpoint``, and ``report licensee``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recension.archive.ledger import Ledger, signing_keys
from recension.model.audit import CALL, STATEMENT, Record
from recension.model.errors import InvalidArgumentError
from recension.model.instant import format_instant, parse_instant
from recension.model.note import VerifierKey, read_key
from recension.server.audit.checkpoints import AuditCheckpoints, last_path
from recension.server.audit.export import FORMS, export
from recension.server.audit.log import AuditLog, Wanted
from recension.server.audit.report.gather import Month, gather
from recension.server.audit.verify import Held, verify
from recension.server.checking import FOUND
from recension.server.opening import OpenStore, take_data_and_json
from recension.server.signing import Signer
from recension.server.telling import write_json
from recension.store.auditing import AuditStore
from recension.store.directory import KEY_FILE
from recension.store.interface import Store

_SHOWN = 200
_VERIFY_EPILOG = f"""\
exit codes:
  0    the log is what was recorded, as far as the checkpoints go
  {FOUND}    it is not: each line says what is wrong
  2    wrong usage
  3    an error with a name: see "error:" and "hint:" on stderr
  130  interrupted
"""


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    group = commands.add_parser("audit", help="who was served what, and that nobody changed the record of it")
    chosen = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    show = chosen.add_parser("show", help="print records")
    _filter(show)
    show.add_argument(
        "--limit",
        type=_count,
        default=_SHOWN,
        metavar="N",
        help="the newest N of them (%(default)s); 0 for all",
    )
    _finish(show, lambda arguments: _show(arguments, open_store))

    check = chosen.add_parser("verify", help="compute the tree anew and compare it with the checkpoints")
    check.epilog = _VERIFY_EPILOG
    check.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="one that was kept elsewhere; may be repeated. Without one, whoever has the disk and the key can"
        " have made the whole log anew",
    )
    check.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY",
        help="trust this key of the server alone, and not those that its log names; may be repeated",
    )
    _finish(check, lambda arguments: _verify(arguments, open_store))

    out = chosen.add_parser("export", help="write records to a file")
    out.add_argument("file", metavar="FILE", type=Path, help="where to")
    out.add_argument("--format", required=True, choices=tuple(FORMS), help="what to write")
    _filter(out)
    _finish(out, lambda arguments: _export(arguments, open_store))

    sign = chosen.add_parser("checkpoint", help="sign a checkpoint of now and print it, to be kept elsewhere")
    _finish(sign, lambda arguments: _checkpoint(arguments, open_store))

    report = commands.add_parser("report", help="what a licensee was served in a month")
    told = report.add_subparsers(title="commands", metavar="COMMAND", required=True)
    one = told.add_parser(
        "licensee", help="delivered, refused, pins, agreements, retractions and answers of a month"
    )
    one.add_argument("name", metavar="NAME", help="the licensee")
    one.add_argument("--month", required=True, metavar="M", help="2026-11, by UTC")
    one.add_argument("--html", type=Path, metavar="FILE", help="write a page that prints")
    _finish(one, lambda arguments: _report(arguments, open_store))


def _filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--licensee", default="", metavar="NAME", help="who called, or whom it is about")
    parser.add_argument("--method", default="", metavar="M", help="GetArticle, or RevisionService/GetArticle")
    parser.add_argument("--outcome", default="", metavar="O", help="OK, NOT_FOUND, PAGE_NOT_FOUND, ...")
    parser.add_argument("--agreement", default="", metavar="DIGEST", help="the version that decided")
    parser.add_argument("--snapshot", default="", metavar="ID", help="what was asked of it")
    parser.add_argument("--since", type=parse_instant, metavar="T", help="from then on: 2026-11-01")
    parser.add_argument("--until", type=parse_instant, metavar="T", help="before then")


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument(
        "--signing-key", type=Path, metavar="FILE", help=f"where the signing key lies (DIR/{KEY_FILE})"
    )
    take_data_and_json(parser, run)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number: {text}")
    return int(text)


@contextmanager
def opened(arguments: argparse.Namespace, open_store: OpenStore) -> Iterator[tuple[Store, AuditLog]]:
    """Open the store and its audit log, with the statements taken over that came since."""
    with closing(open_store(arguments.data)) as store, closing(AuditStore(arguments.data)) as env:
        log = AuditLog(store, env)
        if why_not := log.catch_up():
            sys.stderr.write(f"warning: {why_not}; what is there is shown\n")
        yield store, log


def _wanted(arguments: argparse.Namespace) -> Wanted:
    names = ("licensee", "method", "outcome", "agreement", "snapshot", "since", "until")
    return Wanted(**{name: getattr(arguments, name) for name in names})


def _show(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with opened(arguments, open_store) as (_, log):
        found: Any = log.records(_wanted(arguments))
        if arguments.limit:
            found = deque(found, arguments.limit)
        if arguments.json:
            for record in found:
                sys.stdout.write(record.encoded.decode() + "\n")
            return 0
        table = Table(box=None, pad_edge=False)
        for name in ("record", "time", "who", "what", "outcome"):
            table.add_column(name)
        for name in ("articles", "bytes"):
            table.add_column(name, justify="right")
        for name in ("of", "agreement"):
            table.add_column(name)
        for record in found:
            table.add_row(*map(_plain, _row(record)))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)
    return 0


def _plain(text: str) -> Text:
    """Return a cell in which nothing steers the terminal."""
    return Text("".join(one if one.isprintable() else "\ufffd" for one in text))


def _row(record: Record) -> list[str]:
    get = record.get
    match get("kind"):
        case str(kind) if kind == CALL:
            outcome = get("outcome") + (f" {get('reason')}" if get("reason") else "")
            if get("true_reason"):
                outcome += f" ({get('true_reason')})"
            what, who = get("method"), get("caller")
        case str(kind) if kind == STATEMENT:
            state = "ended" if record.fields.get("ended") else "made" if record.fields.get("first") else ""
            what, who = f"{get('statement')} {state}".strip(), get("licensee")
            outcome = f"commit {record.number('position')}"
        case kind:
            who, outcome = "", ""
            what = f"{kind} {record.number('count') or record.number('position')}"
    subject = get("pin") or get("snapshot")[:19] or get("project")
    numbers = [f"{record.number(name):,}" if record.number(name) else "" for name in ("articles", "bytes")]
    return [
        str(record.index),
        format_instant(record.at),
        who,
        what,
        outcome,
        *numbers,
        subject,
        get("agreement")[:19],
    ]


def _verify(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    held = [Held(str(path), _text(path)) for path in arguments.checkpoint]
    with closing(open_store(arguments.data)) as store, closing(AuditStore(arguments.data)) as env:
        last = last_path(arguments.signing_key or arguments.data / KEY_FILE)
        if last.exists():
            held.append(Held(f"{last}, the last that was signed,", _text(last)))
        keys = [*map(read_key, arguments.key)] or keys_of(store)
        result = verify(env, keys, held, statements=AuditLog(store, env).statements)
    if arguments.json:
        write_json(result.document)
    else:
        for one in result.findings:
            sys.stdout.write(f"{one.kind}\t{one.index}\t{one.what}\n")
        sys.stderr.write(
            f"{result.size:,} records, {result.compared:,} checkpoints,"
            f" {len(result.findings) + result.more:,} findings; root {result.document['root']}\n"
        )
        if not arguments.checkpoint:
            sys.stderr.write(
                "compared with no checkpoint that was kept elsewhere: name one by --checkpoint\n"
            )
    return FOUND if result.findings else 0


def keys_of(store: Store) -> list[VerifierKey]:
    """Return all keys that the store's log has named."""
    with store.view() as view:
        return [read_key(key.key) for key in signing_keys(view)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}", field="checkpoint") from None


def _export(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with opened(arguments, open_store) as (_, log):
        count = export(log.records(_wanted(arguments)), arguments.format, arguments.file)
    if arguments.json:
        write_json({"file": str(arguments.file), "records": count})
    else:
        sys.stderr.write(f"{arguments.file}: {count:,} records\n")
    return 0


def _report(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    month = Month.read(arguments.month)
    with opened(arguments, open_store) as (store, log):
        document = gather(store, log, arguments.name, month)
    if arguments.html is not None:
        from recension.server.audit.report.page import render  # noqa: PLC0415 - jinja2 is slow to import

        try:
            arguments.html.write_text(render(document, version("recension")), encoding="utf-8")
        except OSError as error:
            raise InvalidArgumentError(f"{arguments.html} cannot be written: {error}", field="html") from None
        sys.stderr.write(f"{arguments.html}: {arguments.name}, {month.name}\n")
    if arguments.html is None or arguments.json:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


def _checkpoint(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with opened(arguments, open_store) as (store, log):
        signer = Signer(store, Ledger(store), arguments.signing_key or arguments.data / KEY_FILE)
        signed, key = AuditCheckpoints(log.env, signer).sign_with()
    if arguments.json:
        said = {"size": signed.size, "signed_at": format_instant(signed.signed_at)}
        write_json({**said, "checkpoint": signed.note, "key": str(key)})
    else:
        sys.stdout.write(signed.note)
    return 0
