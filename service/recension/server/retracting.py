"""The commands ``retract``, ``retractions`` and ``receipts``, and what a compaction does for them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import Any

from recension.archive.clock import system_clock
from recension.archive.duties import owing
from recension.archive.ledger import Ledger, current_key
from recension.archive.receipts import awaiting_receipt, prove, receipts, unproven
from recension.archive.restoring import put_back, withheld_by
from recension.archive.retracting import Plan, Retractor, Wanted, retractions
from recension.archive.stating import record
from recension.model.digest import format_digest
from recension.model.errors import CaseNotFoundError, InvalidArgumentError
from recension.model.record import Kind, Statement
from recension.model.retraction import ID_BYTES, Part, Reason, Receipt, check_case, make_receipt
from recension.server.escrow import read_bundle, read_public, write_bundle
from recension.server.opening import OpenStore, take_data_and_json
from recension.server.searching import Searched, Searcher
from recension.server.signing import Signer
from recension.server.sought import Backups, Sought
from recension.server.telling import write_json
from recension.server.withdrawing import Order, Withdrawal, project_names_of, withdraw
from recension.store.directory import KEY_FILE
from recension.store.frames import discard_stale
from recension.store.interface import Store, View

_SHOWN = 20


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    one = commands.add_parser("retract", help="withdraw revisions from every reader, and erase them")
    one.description = (
        "Say what a retraction would hide and whom it concerns; with --yes, hide it from every reader at once"
        " and erase it. The file keeps the bytes until recension-server compact has run."
    )
    one.add_argument("project", metavar="PROJECT", help="the project")
    one.add_argument(
        "--revision", metavar="R", type=int, action="append", default=[], help="a revision; may be repeated"
    )
    one.add_argument(
        "--page",
        metavar="P",
        type=int,
        action="append",
        default=[],
        help="all revisions of a page",
    )
    one.add_argument(
        "--contributor",
        metavar="C",
        action="append",
        default=[],
        help="all revisions by that name",
    )
    one.add_argument(
        "--file", metavar="LIST", type=Path, help="a line for each: a revision id, id:PAGE, or user:NAME"
    )
    one.add_argument("--reason", choices=[reason.value for reason in Reason], help="licensees see it")
    one.add_argument("--case", metavar="ID", default="", help="what the operator calls the case")
    one.add_argument(
        "--parts",
        metavar="PARTS",
        type=_parts,
        help="some of text,comment,contributor (text,comment; with --contributor all three)",
    )
    one.add_argument(
        "--everywhere",
        action="store_true",
        help="also revisions elsewhere that hold such a text",
    )
    one.add_argument(
        "--escrow-key",
        metavar="FILE",
        type=Path,
        help="keep what is erased, for this X25519 key, PEM",
    )
    one.add_argument("--escrow-out", metavar="FILE", type=Path, help="where, outside of the data directory")
    one.add_argument("--reverse", metavar="CASE", default="", help="take a case back, by what was kept")
    one.add_argument("--bundle", metavar="FILE", type=Path, help="what was kept of it")
    one.add_argument("--escrow-secret", metavar="FILE", type=Path, help="the private key, PEM, of mode 600")
    one.add_argument("--yes", action="store_true", help="do it; without it nothing is changed")
    take_data_and_json(one, lambda arguments: _retract(arguments, open_store))

    listing = commands.add_parser("retractions", help="list retractions, and who has not answered")
    chosen = listing.add_subparsers(title="commands", metavar="COMMAND", required=True)
    every = chosen.add_parser("list", help="list all retractions, and whether each is proved to be erased")
    take_data_and_json(every, lambda arguments: _list(arguments, open_store))
    outstanding = chosen.add_parser("outstanding", help="list the pins for which a licensee owes an answer")
    take_data_and_json(outstanding, lambda arguments: _outstanding(arguments, open_store))

    signed = commands.add_parser("receipts", help="show the signed receipts of erasures")
    chosen = signed.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = chosen.add_parser("show", help="show the receipts")
    show.add_argument("--case", metavar="ID", default="", help="of one case alone")
    take_data_and_json(show, lambda arguments: _show(arguments, open_store))
    export = chosen.add_parser("export", help="write the signed notes of a case into a folder")
    export.add_argument("case", metavar="CASE", help="the case")
    export.add_argument("folder", metavar="FOLDER", type=Path, help="where to; it is made if it is not there")
    take_data_and_json(export, lambda arguments: _export(arguments, open_store))


def _parts(text: str) -> tuple[Part, ...]:
    try:
        return tuple(Part(name) for name in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"not some of {', '.join(Part)}: {text}") from None


# --- retract --------------------------------------------------------------------------------------


def _retract(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    if arguments.reverse:
        return _reverse(arguments, open_store)
    check_case(arguments.case)
    if arguments.reason is None:
        raise InvalidArgumentError("no reason is given", hint="give --reason", field="reason")
    _check_escrow(arguments)
    order = Order(
        arguments.project,
        _wanted(arguments),
        arguments.case,
        Reason(arguments.reason),
        arguments.parts or (),
        arguments.everywhere,
    )
    with closing(open_store(arguments.data)) as store:
        escrow = None if arguments.escrow_key is None else partial(_keep, store, arguments)
        found = withdraw(store, arguments.data, order, really=arguments.yes, escrow=escrow)
    if arguments.json:
        said = {"case": arguments.case, "reason": arguments.reason, "dry_run": not arguments.yes}
        write_json(said | found.document | _done_document(found))
    else:
        _say(found, arguments)
    return 0


def _keep(store: Store, arguments: argparse.Namespace, plan: Plan) -> bytes:
    public = read_public(arguments.escrow_key)
    return write_bundle(arguments.escrow_out, withheld_by(store, plan), project_names_of(store), public)


def _wanted(arguments: argparse.Namespace) -> Wanted:
    revisions, pages, contributors = (
        set(arguments.revision), set(arguments.page), set(arguments.contributor)
    )  # fmt: skip
    if arguments.file is not None:
        for number, line in enumerate(_lines(arguments.file), 1):
            kind, colon, rest = line.partition(":")
            if not colon and kind.isdecimal():
                revisions.add(int(kind))
            elif kind == "id" and rest.isdecimal():
                pages.add(int(rest))
            elif kind == "user" and rest:
                contributors.add(rest)
            else:
                raise InvalidArgumentError(
                    f"{arguments.file}, line {number}: {line[:80]!r} is no revision id, id:PAGE or user:NAME",
                    field="file",
                )
    return Wanted(frozenset(revisions), frozenset(pages), frozenset(contributors))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}", field="file") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _done_document(done: Withdrawal) -> dict[str, object]:
    erased = done.erasure
    return {
        "positions": list(done.positions),
        "erased": None if erased is None else {"texts": erased.texts, "values": erased.fields},
        "report": None if done.report is None else str(done.report),
    }


def _say(done: Withdrawal, arguments: argparse.Namespace) -> None:
    plan, concerned, names = done.plan, done.concerned, done.names
    tell = sys.stdout.write
    left = len(plan.left) if not arguments.yes or not (done.positions or done.erasure) else len(plan.targets)
    if not plan.left and not done.positions and done.erasure is None:
        tell(f"nothing is left to do: {len(plan.targets):,} revisions are withdrawn and erased already\n")
        return
    pages = len({(target.place.number, target.place.page) for target in plan.targets.values()})
    would = "" if arguments.yes else "would be "
    tell(f"{left:,} revisions of {pages:,} pages: {', '.join(plan.parts)} {would}withdrawn\n")
    tell(f"{len(plan.erased):,} texts of {sum(plan.erased.values()):,} bytes {would}erased\n")
    holders = sorted({place for places in plan.holders.values() for place in places})
    if holders:
        some = ", ".join(f"{names[one.number]} {one.rev}" for one in holders[:_SHOWN])
        more = ", ..." if len(holders) > _SHOWN else ""
        tell(f"warning: {len(plan.holders):,} texts stay, held by revisions {some}{more} ({len(holders):,});")
        tell(" --everywhere takes them in\n")
    tell(f"{len(concerned.snapshots):,} snapshots hold them, {len(concerned.pins):,} pins")
    tell(f" of {len(concerned.licensees):,} licensees\n")
    if done.quarantine:
        tell(f"warning: {len(done.quarantine):,} files in quarantine may hold records as they came:")
        tell(" look into them\n")
    if not arguments.yes:
        tell("nothing was changed; with --yes it is\n")
        return
    for position in done.positions:
        tell(f"recorded at position {position}\n")
    if done.report is not None:
        tell(f"report: {done.report}\n")
    if done.erasure is None:
        sys.stderr.write(
            "hidden from every reader. An ingest is running, so nothing is erased yet: run this again later\n"
        )
        return
    tell(f"erased {done.erasure.texts:,} texts and {done.erasure.fields:,} values\n")
    tell(f"the file still has their bytes: run recension-server compact --data {arguments.data}\n")


def _check_escrow(arguments: argparse.Namespace) -> None:
    if (arguments.escrow_key is None) != (arguments.escrow_out is None):
        raise InvalidArgumentError("escrow takes --escrow-key and --escrow-out", field="escrow_out")
    if arguments.escrow_out is not None:
        read_public(arguments.escrow_key)
        if arguments.escrow_out.resolve().is_relative_to(arguments.data.resolve()):
            raise InvalidArgumentError(
                f"{arguments.escrow_out} is in the data directory",
                hint="name a file elsewhere: what is kept of an erasure may not lie beside it",
                field="escrow_out",
            )


def _reverse(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    """Take a case back: what was erased is put back first, and shown by the commit that follows."""
    if arguments.bundle is None or arguments.escrow_secret is None:
        raise InvalidArgumentError(
            "without what was kept of it nothing can be taken back",
            hint="give --bundle and --escrow-secret",
            field="bundle",
        )
    with closing(open_store(arguments.data)) as store:
        numbers = {name: number for number, name in project_names_of(store).items()}
        escrow, withheld = read_bundle(arguments.bundle, numbers, arguments.escrow_secret)
        retractor = Retractor(store)
        cases = retractor.reversible(arguments.reverse, escrow)
        revisions = sum(one.revisions for _, one in cases)
        positions = []
        if arguments.yes:
            with store.exclusive_writer():
                put_back(store, withheld)
                positions = [retractor.take_back(position) for position, _ in cases]
            for position, _ in cases:
                Sought(arguments.data).forget(position)
    if arguments.json:
        said = {"case": arguments.reverse, "dry_run": not arguments.yes, "revisions": revisions}
        write_json(said | {"positions": positions})
        return 0
    would = "are shown again" if arguments.yes else "would be shown again; with --yes they are"
    sys.stdout.write(f"case {arguments.reverse}: {revisions:,} revisions {would}\n")
    return 0


# --- compaction -----------------------------------------------------------------------------------


def finish_erasures(store: Store, data: Path) -> list[int]:
    """Erase what retractions have left, before a compaction; return those that await a receipt.

    Raises ``WriterBusyError`` if something is left and another process writes.
    """
    waiting = awaiting_receipt(store)
    retractor = Retractor(store, keep=Sought(data).keep)
    for position in waiting:
        _, plan = retractor.plan_of(position)
        if plan.left:
            with store.exclusive_writer():
                retractor.erase(retractor.plan_of(position)[1])
    discard_stale(data, store)  # also what a process left that was killed between an erasure and this
    return waiting


def sign_receipts(store: Store, data: Path, waiting: Sequence[int], signer: Signer) -> list[Receipt]:
    """Prove and sign, after a compaction, what was erased before it; return the receipts.

    Without a signing key there are none. Raises ``ErasureUnprovenError``, ``SigningKeyUnusableError``.
    """
    with store.view() as view:
        if not waiting or current_key(view) is None:
            return []
    sought = Sought(data)
    now = system_clock()
    proven = [prove(store, position, sought.read(position)) for position in waiting]
    searched = Searched()
    found = Searcher(frozenset().union(*(one.searched for one in proven))).search(
        data, {sought.path(position) for position in waiting}, searched
    )
    if found is not None:
        raise unproven(waiting[0], f"{found} holds a digest or a salt of what was erased")
    backups = tuple(f"{one['made_at']} at position {one['position']}" for one in Backups(data).known())
    signed = []
    for one in proven:
        receipt = Receipt(
            token_bytes(ID_BYTES),
            one.retraction.id,
            one.position,
            one.retraction.case,
            now,
            one.revisions,
            one.fields,
            one.texts,
            one.texts_kept,
            len(one.searched),
            searched.files,
            searched.bytes,
            backups,
        )
        made = make_receipt(receipt, signer.sign(receipt.body.decode() + "\n"))
        record(store, system_clock, _stating(made))
        sought.forget(one.position)
        signed.append(made)
    return signed


def _stating(receipt: Receipt) -> Callable[[View, int, int], Statement | None]:
    def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
        if any(known.retraction == receipt.retraction for _, known in receipts(view)):
            return None
        return Statement(Kind.RECEIPT, receipt.encoded)

    return decide


def signer_of(store: Store, data: Path, key: Path | None) -> Signer:
    """Return what signs for a data directory."""
    return Signer(store, Ledger(store), key or data / KEY_FILE)


# --- lists ----------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with closing(open_store(arguments.data)) as store, store.view() as view:
        done = {receipt.retraction for _, receipt in receipts(view)}
        rows: list[dict[str, object]] = [
            {
                "position": position,
                "case": one.case,
                "reason": one.reason.value,
                "project": one.project,
                "parts": [part.value for part in one.parts],
                "revisions": one.revisions,
                "reverses": one.reverses.hex() or None,
                "receipt": one.id in done,
            }
            for position, one in retractions(view)
        ]
    if arguments.json:
        write_json(rows)
        return 0
    for row in rows:
        what = "taken back" if row["reverses"] else "receipt signed" if row["receipt"] else "no receipt yet"
        cells = (
            row["position"],
            row["case"],
            row["reason"],
            row["project"],
            f"{row['revisions']:,} revisions",
        )
        sys.stdout.write("\t".join(map(str, (*cells, what))) + "\n")
    if not rows:
        sys.stderr.write("nothing was withdrawn\n")
    return 0


def _outstanding(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with closing(open_store(arguments.data)) as store:
        rows: list[dict[str, object]] = [
            {
                "owner": one.pin.owner,
                "pin": one.pin.name,
                "id": one.pin.id.hex(),
                "snapshot": format_digest(one.pin.snapshot_id),
                "expired": one.expired,
                "entries": one.entries,
                "since": one.since,
                "answered_through": one.through,
            }
            for one in owing(store)
        ]
    if arguments.json:
        write_json(rows)
        return 0
    for row in rows:
        since = f"{row['entries']:,} entries since position {row['since']}"
        sys.stdout.write(f"{row['owner'] or '-'}\t{row['pin']}\t{since}\n")
    if not rows:
        sys.stderr.write("everybody has answered\n")
    return 0


def _receipts(arguments: argparse.Namespace, open_store: OpenStore) -> list[tuple[int, Receipt]]:
    with closing(open_store(arguments.data)) as store, store.view() as view:
        found = [(at, one) for at, one in receipts(view) if arguments.case in ("", one.case)]
    if arguments.case and not found:
        raise CaseNotFoundError(
            f"no receipt of case {arguments.case[:200]!r}",
            hint="list the cases with: recension-server retractions list; compact signs the receipts",
        )
    return found


def _show(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    found = _receipts(arguments, open_store)
    if arguments.json:
        write_json([json.loads(one.encoded) for _, one in found])
        return 0
    sys.stdout.write("\n".join(one.note for _, one in found))
    if not found:
        sys.stderr.write("no receipts yet: compact signs them, if there is a signing key\n")
    return 0


def _export(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    found = _receipts(arguments, open_store)
    paths = [arguments.folder / f"receipt-{one.position}.note" for _, one in found]
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for path, (_, one) in zip(paths, found, strict=True):
            path.write_text(one.note, encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"{arguments.folder} cannot be written: {error}", field="folder") from None
    _write_lines(arguments, paths)
    return 0


def _write_lines(arguments: argparse.Namespace, paths: Iterable[Path]) -> None:
    names = [str(path) for path in paths]
    sys.stdout.write(json.dumps(names) + "\n" if arguments.json else "".join(f"{name}\n" for name in names))
